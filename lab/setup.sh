#!/bin/sh
# Makes this machine ready for `make demo` and `make test`: Debian 12 or 13, or Ubuntu 24.04. Asks nothing.
#
#   lab/setup.sh                                  system packages (as root or through sudo), then .venv
#   lab/setup.sh --packages                       system packages only, as root
#   lab/setup.sh --libvirt                        what `make bench LIBVIRT=1` needs besides (as root or through sudo)
#   lab/setup.sh --print-backports DIR CODENAME   the backports source that follows from the apt sources in DIR
# shellcheck disable=SC2046,SC2048,SC2086 # lists of words are meant to be split
set -eu

PACKAGES="qemu-system-x86 qemu-utils redis-server postgresql busybox-static cpio zstd kmod gcc libc6-dev
    iproute2 python3 python3-venv util-linux ca-certificates ovmf genisoimage swtpm
    systemd-container"
QEMU_PACKAGES="qemu-system-x86 qemu-system-common qemu-system-data qemu-utils seabios ipxe-qemu"
LIBVIRT_PACKAGES="libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients"
LIBVIRT_LIBRARIES="libvirt0 libvirt-common libvirt-daemon-common libvirt-daemon-log" # of the same version
PYTHON_CHECK='import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))'
LIVE_RAM_QEMU=1:9.0~ # older ones corrupt the guest's memory in live migration without KVM

APT=/etc/apt
LISTS=/var/lib/apt/lists
BACKPORTS_FILE=$APT/sources.list.d/drover-backports.sources
POLICY=/usr/sbin/policy-rc.d
CLUSTER_CONF=/etc/postgresql-common/createcluster.d/drover.conf

say() { echo "setup: $*"; }

fail() {
    echo "setup: $*" >&2
    exit 1
}

main() {
    case ${1:-} in
    --print-backports) print_backports "$2" "$3" ;;
    --packages) install_packages ;;
    --libvirt)
        cd -P "$(dirname "$0")/.."
        ensure_libvirt
        ;;
    '')
        cd -P "$(dirname "$0")/.."
        ensure_packages
        ensure_environment
        say "ready: QEMU $(version_of qemu-system-x86), $(.venv/bin/python --version)"
        ;;
    *) fail "unknown argument $1" ;;
    esac
}

# --- What apt's sources say -------------------------------------------------------------------------------------

# One line per address and suite, fields parted by tabs: address, suite, components, Signed-By, Trusted.
# Line ends inside Signed-By (a whole key may stand there) become \001.
entries() {
    for file in "$1"/sources.list "$1"/*.list "$1"/*.sources "$1"/sources.list.d/*.list "$1"/sources.list.d/*.sources; do
        [ -f "$file" ] || continue
        case $file in
        *.sources) entries_deb822 "$file" ;;
        *) entries_one_line "$file" ;;
        esac
    done
}

entries_one_line() {
    awk '
        $1 != "deb" { next }
        {
            sub(/#.*/, ""); sub(/^[ \t]*deb[ \t]+/, "")
            signed = trusted = ""
            if (match($0, /^\[[^]]*\]/)) {
                count = split(substr($0, 2, RLENGTH - 2), options, /[ \t]+/)
                $0 = substr($0, RLENGTH + 1)
                for (i = 1; i <= count; i++) {
                    if (options[i] ~ /^signed-by=/) signed = substr(options[i], 11)
                    if (options[i] ~ /^trusted=/) trusted = substr(options[i], 9)
                }
            }
            components = $3
            for (i = 4; i <= NF; i++) components = components " " $i
            if ($1 !~ /^cdrom:/) print $1 "\t" $2 "\t" components "\t" signed "\t" trusted
        }' "$1"
}

entries_deb822() {
    awk '
        function flush_stanza(   uris, suites, u, s, i, j) {
            if (field["enabled"] !~ /no|false|0/ && field["types"] ~ /(^|[ \t])deb([ \t]|$)/) {
                u = split(field["uris"], uris, /[ \t\001]+/)
                s = split(field["suites"], suites, /[ \t\001]+/)
                for (i = 1; i <= u; i++) for (j = 1; j <= s; j++) if (uris[i] != "" && suites[j] != "")
                    print uris[i] "\t" suites[j] "\t" field["components"] "\t" field["signed-by"] "\t" field["trusted"]
            }
            split("", field)
            name = ""
        }
        /^#/ { next }
        /^[ \t]*$/ { flush_stanza(); next }
        /^[ \t]/ { if (name != "") field[name] = field[name] "\001" $0; next }
        {
            name = tolower(substr($0, 1, index($0, ":") - 1))
            value = substr($0, index($0, ":") + 1)
            sub(/^[ \t]+/, "", value); sub(/[ \t]+$/, "", value)
            field[name] = value
        }
        END { flush_stanza() }' "$1"
}

has_backports() { entries "$1" | cut -f2 | grep -qx -e "$2-backports" -e "$2-backports/"; }

# The distribution's own entry is the one with <codename>-updates beside it: others call their suites like that too.
print_backports() {
    entries "$1" | awk -F '\t' -v codename="$2" '
        { sub(/\/$/, "", $1) }
        $2 == codename "-updates" { main[$1] = 1 }
        $2 == codename && (" " $3 " ") ~ /[ \001]main[ \001]/ { n++; uri[n] = $1; signed[n] = $4; trusted[n] = $5 }
        END {
            for (i = 1; i <= n; i++) {
                score = (uri[i] in main ? 2 : 0) + (uri[i] ~ /\/debian$/ ? 1 : 0)
                if (!best || score > top) { best = i; top = score }
            }
            if (!best) exit 1
            print "Types: deb\nURIs: " uri[best] "\nSuites: " codename "-backports\nComponents: main"
            if (trusted[best] != "") print "Trusted: " trusted[best]
            gsub(/\001/, "\n", signed[best])
            if (signed[best] != "") print "Signed-By:" (signed[best] ~ /^\n/ ? "" : " ") signed[best]
        }'
}

# --- System packages --------------------------------------------------------------------------------------------

release() { (
    ID='' VERSION_CODENAME=''
    # shellcheck disable=SC1091
    . /etc/os-release
    echo "$ID $VERSION_CODENAME"
); }

version_of() { dpkg-query -W -f '${Version}' "$1" 2>/dev/null || true; }

missing_packages() {
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $PACKAGES 2>/dev/null | sed -n 's/^installed //p')
    for package in $PACKAGES; do
        echo "$installed" | grep -qx "$package" || printf '%s ' "$package"
    done
}

# Debian 12 alone has a newer one to offer, in its backports.
newer_qemu_wanted() { [ "$(release)" = "debian bookworm" ] && qemu_is_old; }

qemu_is_old() { dpkg --compare-versions "$(version_of qemu-system-x86)" lt "$LIVE_RAM_QEMU"; }

# The guests' kernel comes from apt too, later and without root.
lists_missing() { [ -z "$(find $LISTS -maxdepth 1 -name '*_Packages*' -print -quit 2>/dev/null)" ]; }

lists_stale() {
    lists_missing || [ -z "$(find $LISTS/partial -maxdepth 0 -mmin -1440 2>/dev/null)" ] ||
        [ -n "$(find $APT/sources.list $APT/sources.list.d -newer $LISTS/partial -print -quit 2>/dev/null)" ]
}

ensure_packages() {
    command -v apt-get >/dev/null ||
        fail "this is neither Debian nor Ubuntu; install what lab/setup.sh names by hand, then .venv"
    missing=$(missing_packages)
    if [ -z "$missing" ] && ! lists_stale && ! newer_qemu_wanted; then
        :
    elif [ "$(id -u)" = 0 ]; then
        install_packages
    elif sudo -n true 2>/dev/null; then
        sudo -n sh lab/setup.sh --packages
    elif [ -n "$missing" ] || lists_missing; then
        say "missing on this machine: ${missing:-package lists}"
        fail "run this as root, then the same again:  sh $PWD/lab/setup.sh --packages"
    else
        say "(as root, 'sh $PWD/lab/setup.sh --packages' would refresh apt's lists and QEMU)"
    fi
    report_qemu
}

install_packages() {
    [ "$(id -u)" = 0 ] || fail "--packages needs root"
    begin_installing
    set -- $(release)
    [ "$*" != "debian bookworm" ] || add_backports "$2"
    if lists_stale && ! update_lists; then
        say "apt-get update failed, going on with what is there: $(last_error)"
    fi
    [ "$*" != "debian bookworm" ] || install_newer_qemu "$2"
    missing=$(missing_packages)
    if [ -n "$missing" ]; then
        keep_services_off
        install "$missing"
    fi
    command -v qemu-storage-daemon >/dev/null || fail "this release's QEMU packages hold no qemu-storage-daemon"
}

begin_installing() {
    export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C.UTF-8
    log=$(mktemp)
    trap clean_up EXIT
    trap 'exit 1' HUP INT TERM
}

# No daemon of the machine's is started; the benchmark has its own.
ensure_libvirt() {
    PACKAGES=$LIBVIRT_PACKAGES
    [ -n "$(missing_packages)" ] || return 0
    if [ "$(id -u)" = 0 ]; then
        begin_installing
        keep_services_off
        install "$(libvirt_words)"
    elif sudo -n true 2>/dev/null; then
        sudo -n sh lab/setup.sh --libvirt
    else
        fail "run this as root, then the same again:  sh $PWD/lab/setup.sh --libvirt"
    fi
}

# Debian 12's backports have the libvirt of Debian 13. Named one by one: -t would upgrade systemd with it.
libvirt_words() {
    set -- $(release)
    if [ "$*" = "debian bookworm" ] && apt-cache madison libvirt-daemon | grep -q " $2-backports/"; then
        printf "%s/$2-backports " $LIBVIRT_PACKAGES $LIBVIRT_LIBRARIES
    else
        echo "$LIBVIRT_PACKAGES"
    fi
}

update_lists() {
    say "apt-get update"
    apt_get update && touch $LISTS/partial # apt itself leaves no trace when nothing was new
}

apt_get() { apt-get -q -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 </dev/null; }

install() { # PACKAGES [OPTION...]
    say "apt-get install" $*
    words=$1
    shift
    apt_get install -y --no-install-recommends "$@" $words && return
    tail -n 20 "$log" >&2
    fail "apt-get could not install: $words"
}

last_error() { grep '^[EW]:' "$log" | LC_ALL=C sort | head -n 1; }

add_backports() { # CODENAME
    ! has_backports $APT "$1" || return 0
    if ! entry=$(print_backports $APT "$1"); then
        say "apt's sources name no $1 with component main, from which to derive its backports"
        return 0
    fi
    say "adding $1-backports to apt's sources ($BACKPORTS_FILE)"
    mkdir -p $APT/sources.list.d
    echo "$entry" >$BACKPORTS_FILE
    update_lists && return
    say "$1-backports cannot be had: $(last_error)"
    rm $BACKPORTS_FILE
}

install_newer_qemu() { # CODENAME
    qemu_is_old || return 0
    apt-cache madison qemu-system-x86 | grep -q " $1-backports/" || return 0
    keep_services_off
    present=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'qemu-*' 2>/dev/null | sed -n 's/^installed //p')
    install "$(printf '%s\n' $QEMU_PACKAGES $present | sort -u | tr '\n' ' ')" -t "$1-backports"
}

report_qemu() {
    ! qemu_is_old || say "QEMU $(version_of qemu-system-x86) is too old for live migration without KVM:" \
        "RAM will be migrated paused"
}

# The lab runs its own Postgres and Redis: no server of the machine is started, no cluster made.
keep_services_off() {
    if [ ! -e $POLICY ]; then
        printf '#!/bin/sh\nexit 101\n' >$POLICY
        chmod 755 $POLICY
        our_policy=1
    fi
    if [ -z "$(version_of postgresql-common)" ] && [ ! -e $CLUSTER_CONF ]; then
        mkdir -p "$(dirname $CLUSTER_CONF)"
        echo 'create_main_cluster = false' >$CLUSTER_CONF
        our_cluster_conf=1
    fi
}

clean_up() {
    rm -f "$log"
    [ -z "${our_policy:-}" ] || rm -f $POLICY
    [ -n "${our_cluster_conf:-}" ] || return 0
    rm -f $CLUSTER_CONF
    rmdir --ignore-fail-on-non-empty -p "$(dirname $CLUSTER_CONF)"
}

# --- The virtual environment ------------------------------------------------------------------------------------

ensure_environment() {
    stamp=.venv/.drover-setup
    wanted="$PWD $(cksum <pyproject.toml)"
    if [ "$(cat $stamp 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
        return
    fi
    if ! environment_works; then
        python=$(find_python)
        say "making .venv with $python"
        "$python" -m venv --clear .venv
    fi
    say "pip install -e '.[dev]'"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' ||
        fail "pip could not install drover's requirements, see above"
    # An installed Drover is compiled; what lies in a checkout would be compiled anew by each process that may not write.
    .venv/bin/python -m compileall -q bench drover lab migrations models workers workflows
    echo "$wanted" >$stamp
}

# A copied or moved checkout brings scripts that name another place.
environment_works() {
    .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
        .venv/bin/python -m pip --version 2>/dev/null | grep -qF " from $PWD/.venv/" &&
        head -n 1 .venv/bin/pip | grep -qF "$PWD/.venv/"
}

find_python() {
    old_ifs=$IFS
    IFS=:
    for folder in $PATH; do
        for python in "$folder"/python3 "$folder"/python3.1[1-9]; do
            if [ -x "$python" ] && "$python" -c "$PYTHON_CHECK" 2>/dev/null; then
                IFS=$old_ifs
                echo "$python"
                return
            fi
        done
    done
    fail "Drover needs Python 3.11 or newer with venv; $(python3 --version 2>&1 || true) is not enough"
}

main "$@"
