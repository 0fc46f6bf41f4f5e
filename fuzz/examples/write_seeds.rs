//! Writes the seeds that libFuzzer starts from to `fuzz/seeds/TARGET/`. `scripts/fuzz.sh` runs it.

#[path = "../../tests/properties/boundary/mod.rs"]
mod boundary;
#[path = "../../tests/properties/seeds.rs"]
mod seeds;

use std::path::Path;
use std::{fs, io};

fn main() -> io::Result<()> {
    for (target, _) in boundary::ALL {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
        fs::create_dir_all(&dir)?;
        for (number, seed) in seeds::of(target).iter().enumerate() {
            fs::write(dir.join(format!("{number:03}")), seed)?;
        }
    }
    Ok(())
}
