//! The end-to-end tests' harness for another program of tests, or of benchmarks: each module by its path.

macro_rules! harness {
    ($($file:literal $module:ident;)*) => {$(
        #[path = $file]
        #[allow(dead_code, reason = "not all of it is used here")]
        mod $module;
    )*};
}
