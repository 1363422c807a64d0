#!/bin/sh
# What docker/Dockerfile does, without a container engine: lints it with hadolint where there is
# one, makes an empty Debian in FOLDER with debootstrap, runs the Dockerfile's own RUN lines in it
# by chroot, with what its COPY lines name, and in the end its health check, as its user.
#
#   sudo scripts/check_image.sh FOLDER [cpu|gpu]
#
# Python is Debian's 3.11, where the image's is python.org's. About 4 GB, 10 GB for gpu. HADOLINT
# names the linter; BIND names folders of this machine (a package mirror, say) that the root sees.
set -eu
cd "$(dirname "$0")/.."
root=${1:?usage: scripts/check_image.sh FOLDER [cpu|gpu]} EXTRA=${2:-cpu}
home=/home/merlin/project
lines=$(mktemp)
trap 'rm -f "$lines"; umount -l "$root/proc" "$root/dev" 2>/dev/null || true
    for f in ${BIND:-}; do umount -l "$root$f" 2>/dev/null || true; done' EXIT

if command -v "${HADOLINT:-hadolint}" >/dev/null; then
    "${HADOLINT:-hadolint}" docker/Dockerfile && echo "check_image: hadolint has nothing to say"
fi

# One instruction a line, those of a stage after its FROM.
sed -e '/^#/d' docker/Dockerfile | sed -e ':a' -e '/\\$/{N;s/\\\n//;ba' -e '}' > "$lines"
instructions() { awk -v name="$1" -v stage="$2" '/^FROM/ {n++} n == stage && $1 == name {
    sub(/^[A-Z]+ +/, ""); print}' "$lines"; }
inside() { chroot "$root" env -i HOME="${2:-/root}" PATH="/usr/local/bin:/usr/bin:/bin:/usr/sbin" \
    EXTRA="$EXTRA" SSL_CERT_FILE="${SSL_CERT_FILE:-}" PIP_CERT="${PIP_CERT:-}" \
    PIP_FIND_LINKS="${PIP_FIND_LINKS:-}" LANG=C.UTF-8 \
    ${3:+setpriv --reuid "$3" --regid "$3" --clear-groups} sh -euc "cd $home && $1"; }
run_all() { instructions RUN "$1" | while IFS= read -r command; do
    echo "check_image: RUN $command"
    inside "$command" < /dev/null
done; }

[ -d "$root/etc" ] || debootstrap --variant=minbase --include=ca-certificates bookworm "$root" \
    "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
mkdir -p "$root$home"
cp /etc/resolv.conf "$root/etc/resolv.conf"
[ ! -f "${SSL_CERT_FILE:-}" ] || cp -L "$SSL_CERT_FILE" "$root/etc/ssl/certs/ca-certificates.crt"
[ ! -f /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/pip.conf"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
for folder in ${BIND:-}; do mkdir -p "$root$folder" && mount --bind "$folder" "$root$folder"; done

inside "apt-get update -q && apt-get install -qy --no-install-recommends python3.11-venv"

# First stage: only what it copies is there, so that a missing COPY shows.
for names in $(instructions COPY 1 | awk '{$NF=""; print}'); do cp -a "$names" "$root$home/"; done
run_all 1
# Second stage: all that .dockerignore leaves, the environment kept.
git ls-files -z --cached --others --exclude-standard | tar -c --null -T - --ignore-failed-read |
    tar -x -C "$root$home"
run_all 2
user=$(instructions USER 2)
chown -R "$user:$user" "$root/home/merlin"
path="PATH=$home/.venv/bin:\$PATH"
inside "$path python -m pipeline --help > /dev/null && $path merlin-pipeline --help" \
    /home/merlin "$user" < /dev/null | head -n 3
echo "check_image: the health check and the command run as user $user"
