#!/bin/bash
# Mutation testing of the code that decides what opens: changes one operator or one result at a time and runs the tests.
# Where no test notices a change, a test is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"

CARGO_MUTANTS=27.1.0
# Unit tests have to notice what changes in these files.
UNIT=(
    src/layout/mod.rs
    src/layout/classic.rs
    src/layout/receiver.rs
    src/layout/keys.rs
    src/layout/stealth.rs
    src/layout/steps.rs
    src/counter.rs
    src/grant.rs
    src/privileged/message.rs
    src/privileged/limits.rs
    src/privileged/grants.rs
    src/daemon/policy.rs
    src/daemon/log_event.rs
)
# The grammar of log lines is tested by a program of its own.
LINE_TEST=log_line
LINE=(
    src/daemon/kernel_log_line/mod.rs
    src/daemon/kernel_log_line/header.rs
    src/daemon/kernel_log_line/packet.rs
    src/daemon/kernel_log_line/rest.rs
)
EXCLUDED=.cargo/mutants.toml

usage() {
    cat <<END
Changes the code that decides what opens, one operator or one result at a time, in a copy of the tree, and runs the tests
that concern it. Installs cargo-mutants $CARGO_MUTANTS below target/ if it is not there. Takes about an hour on two processors.
A change that no test can notice is left out in $EXCLUDED, with the reason; the logs are in target/mutants.

usage: scripts/mutants.sh [FILE...]
FILE: all of them if none is named
$(printf '    %s\n' "${UNIT[@]}" "${LINE[@]}")
Exit status: 0 the tests notice every change, 1 they do not or something went wrong, 2 usage.
END
}

case ${1:-} in -h | --help) usage && exit 0 ;; esac
for file in "${UNIT[@]}" "${LINE[@]}"; do
    [[ -f $file ]] || die "$file is not there: was it renamed? The list is at the top of $0"
done
[[ -f tests/$LINE_TEST.rs ]] || die "tests/$LINE_TEST.rs is not there: was it renamed? Its name is at the top of $0"
for file in "$@"; do
    [[ " ${UNIT[*]} ${LINE[*]} " == *" $file "* ]] || { usage >&2 && exit 2; }
done
wanted=" ${*:-${UNIT[*]} ${LINE[*]}} "

find_cargo
install_missing gcc=cc
tools=$PWD/target/tools out=$PWD/target/mutants
if [[ $("$tools/bin/cargo-mutants" mutants --version 2>/dev/null) != "cargo-mutants $CARGO_MUTANTS" ]]; then
    cargo install --quiet --locked --root "$tools" --version "$CARGO_MUTANTS" cargo-mutants || die "cannot install cargo-mutants"
fi

# Debugging information would only take time. The copy of the tree builds below itself.
export CARGO_PROFILE_DEV_DEBUG=0
unset CARGO_TARGET_DIR

# mutate NAME "FILE..." CARGO_ARG... [-- TEST_ARG...]
mutate() {
    local name=$1 file files=() args=() status=0
    for file in $2; do
        [[ $wanted != *" $file "* ]] || files+=(--file "$file")
    done
    shift 2
    ((${#files[@]})) || return 0
    while (($#)) && [[ $1 != -- ]]; do args+=("--cargo-arg=$1") && shift; done
    mkdir -p "$out/$name"
    say "== $name"
    "$tools/bin/cargo-mutants" mutants --output "$out/$name" --colors never --minimum-test-timeout 60 "${files[@]}" \
        "${args[@]}" "$@" || status=$?
    # 2: a change was not noticed; 3: with one the tests did not end, which is noticed too.
    ((status == 0 || status == 2 || status == 3)) || die "cargo-mutants failed: its logs are in $out/$name"
}

# The unit tests of these modules alone: others wait for clocks and files.
modules=()
for file in "${UNIT[@]}"; do
    module=${file#src/} module=${module%.rs} module=${module%/mod}
    modules+=("${module//\//::}::")
done
rm -rf "$out"
mutate unit "${UNIT[*]}" --lib -- -- "${modules[@]}"
mutate line "${LINE[*]}" --test "$LINE_TEST"

say "left out ($EXCLUDED):"
if [[ -f $EXCLUDED ]]; then sed -n 's/^/    /p' "$EXCLUDED"; else say "    nothing"; fi
endless=$(cat "$out"/*/mutants.out/timeout.txt)
[[ -z $endless ]] || say "the tests did not end:"$'\n'"$endless"
missed=$(cat "$out"/*/mutants.out/missed.txt)
[[ -z $missed ]] || die "no test notices:"$'\n'"$missed"
say "the tests notice every change"
