//! Figures: exits, instructions, CPU seconds side by side.
