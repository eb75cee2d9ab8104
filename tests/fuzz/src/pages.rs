//! Shared pages without a host: plain memory, reached as shared pages are.

#![expect(
    unsafe_code,
    reason = "a shared page is made from a pointer; here it is a leaked allocation"
)]

use std::ptr::NonNull;

use stockade_platform::SharedPage;

#[repr(align(4096))]
struct Page([u8; 4096]);

/// Returns a page of zeros that is never freed: to be made once a thread.
pub(crate) fn leak_page() -> SharedPage {
    let page = Box::leak(Box::new(Page([0; 4096])));
    let start = NonNull::from(&mut page.0).cast();
    // SAFETY: 1. The allocation is 4096 bytes, aligned to a page, and leaked. 2. The reference ends here.
    unsafe { SharedPage::new(start) }
}
