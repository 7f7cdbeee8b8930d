//! What the fuzz targets share. cargo-fuzz builds them for libFuzzer, which finds its way by coverage (`scripts/fuzz`). Built
//! otherwise, each is an ordinary program that tries its seeds and what becomes of them by chance, so that `make check` runs all of
//! them for a moment without another toolchain (`scripts/fuzz --briefly`).

mod briefly;

#[doc(hidden)]
pub use arbitrary;
pub use briefly::briefly;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use libfuzzer_sys;

/// A target: libFuzzer's macro of that name, or a `main` that runs it briefly.
#[macro_export]
macro_rules! fuzz_target {
    ($($target:tt)*) => {
        #[cfg(fuzzing)]
        $crate::libfuzzer_sys::fuzz_target!($($target)*);

        #[cfg(not(fuzzing))]
        fn main() -> std::process::ExitCode {
            $crate::briefly($crate::of_bytes!($($target)*))
        }
    };
}

/// A target as a function of bytes: its input is made of them the way libFuzzer's macro does it.
#[doc(hidden)]
#[macro_export]
macro_rules! of_bytes {
    (|$input:ident: &[u8]| $body:expr) => {
        |$input: &[u8]| $body
    };
    (|$input:ident: $type:ty| $body:expr) => {
        |bytes: &[u8]| {
            let from = $crate::arbitrary::Unstructured::new(bytes);
            if let Ok($input) = <$type as $crate::arbitrary::Arbitrary>::arbitrary_take_rest(from) {
                $body
            }
        }
    };
}
