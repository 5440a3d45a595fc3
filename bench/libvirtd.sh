#!/bin/sh
# The libvirtd of one host, within name spaces that `unshare` made: its folders of the system are its own below FOLDER,
# and the guests' files have the same paths, those of the first host, on both.
#
#   libvirtd.sh NAME FOLDER GUESTS PATH_OF_GUESTS
set -eu
hostname "$1"
mount --bind "$3" "$4"
for system in /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /run; do
    mount --bind "$2$system" "$system"
done
libvirtd --config /etc/libvirt/libvirtd.conf &
wait # as process 1 this shell reaps each QEMU that libvirtd started; libvirtd counts on somebody doing that
