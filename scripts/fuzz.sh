#!/bin/bash
# The long runs of the fuzz targets. The short one is `cargo test --test properties`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"

CARGO_FUZZ=0.13.2
# The longest input worth trying, in bytes; also the list of the targets.
declare -A MAX_LEN=([answers]=512 [auth]=800 [chunk]=2048 [classic]=64 [config]=1024 [import]=512 [line]=1024 [message]=4096
    [profile]=512 [sequence]=64 [socks]=1200 [steps]=96 [tags]=160)

usage() {
    cat <<END
Fuzzes the boundaries at which bytes come in, one after the other, and stops at the first input that breaks a property;
that input is in fuzz/artifacts then. Installs cargo-fuzz $CARGO_FUZZ below target/ if it is not there.

usage: scripts/fuzz.sh [--runs N] [--sanitizer address|none] [--keep] [TARGET...]
    --runs N       cases for each target (10000000)
    --sanitizer S  address also finds memory errors, at a third of the speed (none)
    --keep         afterwards, put what reached new code into fuzz/corpus, as few files as reach it
    TARGET         $(printf '%s\n' "${!MAX_LEN[@]}" | sort | paste -sd' ')
Exit status: 0 all is well, 1 something is not, 2 usage.
END
}

wrong_usage() {
    say "$1" >&2
    usage >&2
    exit 2
}

runs=10000000 sanitizer=none keep='' targets=()
while (($#)); do
    case $1 in
    --runs) [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || wrong_usage "--runs takes a number" && runs=$2 && shift ;;
    --sanitizer) [[ ${2:-} =~ ^(address|none)$ ]] || wrong_usage "--sanitizer takes address or none" && sanitizer=$2 && shift ;;
    --keep) keep=1 ;;
    -h | --help) usage && exit 0 ;;
    *) [[ $1 != -* && -n ${MAX_LEN[$1]:-} ]] || wrong_usage "no such option or target: $1" && targets+=("$1") ;;
    esac
    shift
done
if ((${#targets[@]} == 0)); then mapfile -t targets < <(printf '%s\n' "${!MAX_LEN[@]}" | sort); fi

find_cargo
install_missing g++=c++
tools=$PWD/target/tools
if [[ $("$tools/bin/cargo-fuzz" --version 2>/dev/null) != "cargo-fuzz $CARGO_FUZZ" ]]; then
    cargo install --quiet --locked --root "$tools" --version "$CARGO_FUZZ" cargo-fuzz
fi

# The profile target makes files, and libFuzzer leaves without tidying up.
if [[ -w /dev/shm ]]; then scratch=$(mktemp -d -p /dev/shm); else scratch=$(mktemp -d); fi
trap 'rm -rf "$scratch"' EXIT

# cargo-fuzz asks rustc for what only a nightly one gives freely: libFuzzer's instrumentation.
fuzz() {
    TMPDIR=$scratch RUSTC_BOOTSTRAP=1 "$tools/bin/cargo-fuzz" "$@"
}
build=(--sanitizer "$sanitizer" --target-dir "fuzz/target/$sanitizer")

say "== build"
cargo run --quiet --locked --manifest-path fuzz/Cargo.toml --target-dir target --example write_seeds
fuzz build "${build[@]}"
for target in "${targets[@]}"; do
    say "== $target: $runs cases, sanitizer $sanitizer"
    found=fuzz/found/$target kept=fuzz/corpus/$target seeds=fuzz/seeds/$target
    mkdir -p "$found"
    start=$SECONDS
    fuzz run "${build[@]}" "$target" "$found" "$kept" "$seeds" -- -runs="$runs" -max_len="${MAX_LEN[$target]}" \
        -verbosity=0 2>&1 | sed '/Recommended dictionary/,/End of/d' || die "$target: the input above breaks a property"
    say "$target: $runs cases in $((SECONDS - start)) s"
    if [[ -n $keep ]]; then
        rm -rf "$kept.new" && mkdir "$kept.new"
        # By the code that is reached, not by how often it is: else most inputs would be kept.
        fuzz run "${build[@]}" "$target" "$kept.new" "$kept" "$found" "$seeds" -- -set_cover_merge=1 -use_counters=0 \
            -max_len="${MAX_LEN[$target]}" -verbosity=0
        rm -rf "$kept" && mv "$kept.new" "$kept"
        say "$kept: $(find "$kept" -type f | wc -l) files, $(du -sb "$kept" | cut -f1) bytes"
    fi
done
