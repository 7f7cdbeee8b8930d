# Sourced by the scripts beside it: where things go, and what a script says.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$top/out
mkdir -p "$out"
# Debian leaves these out of an ordinary user's PATH; depmod is there, and groupadd, which a configure script looks for.
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
