//! Builds, measures, inspects and runs unmodified guests as confidential VMs.
