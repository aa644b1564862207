# Images by the names that users know, of this machine's own files: there is no registry to ask.
set -e
directory=$(mktemp -d)
cd "$directory"
mkdir -p usr/bin usr/lib usr/lib64 usr/local/bin etc tmp root
for link in bin lib lib64; do ln -s usr/$link $link; done
ln -s usr/bin sbin
cp -a /usr/lib/*-linux-gnu usr/lib/
for loader in /usr/lib64/* /usr/lib/ld-linux-*; do
    [ ! -e "$loader" ] || cp -a "$loader" "usr/lib${loader#/usr/lib}"
done
cp -a /usr/lib/python3* usr/lib/
cp -L /usr/bin/python3 /usr/bin/curl /usr/bin/getent /usr/bin/busybox /usr/bin/dash /usr/bin/bash usr/bin/
ln -s dash usr/bin/sh
ln -s python3 usr/bin/python
for applet in cat hostname id ip kill ls mkdir nc nslookup ping ps sleep wget; do ln -s busybox usr/bin/$applet; done
cp /etc/passwd /etc/group /etc/nsswitch.conf etc/
tar -c . | docker import - python:3-slim
tar -c . | docker import --change 'ENTRYPOINT ["curl"]' - curlimages/curl
cd /
rm -rf "$directory"
