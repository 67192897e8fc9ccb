// A Rust program that leaks through C: a string that strdup made, and that nobody frees.
use std::ffi::CString;
use std::os::raw::c_char;

extern "C" {
    fn strdup(text: *const c_char) -> *mut c_char;
    fn usleep(microseconds: u32) -> i32;
}

#[inline(never)]
fn copy_name(name: &CString) -> usize {
    let copy = unsafe { strdup(name.as_ptr()) }; // lost
    unsafe { *copy as usize }
}

fn main() {
    let name = CString::new("x".repeat(500)).unwrap();
    println!("READY");
    let mut sum = 0;
    loop {
        sum += copy_name(&name);
        if sum == 1 {
            println!("{}", sum);
        }
        unsafe { usleep(5000) };
    }
}
