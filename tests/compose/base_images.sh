#!/bin/sh
# The images that docker-compose.yml and the Dockerfile start from, made of Debian's packages: for where no registry of
# images is at hand. They behave as the real ones as far as the compose file relies on them, and are for tests alone.
# Usage: base_images.sh FOLDER, with DOCKER_HOST set and debootstrap installed.
set -eu
folder=$1
suite=trixie

# Where this machine takes its own packages from.
mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .*/\2/p' \
    /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1)
[ -n "$mirror" ] || { echo "base_images.sh: this machine's apt sources name no Debian mirror" >&2; exit 1; }

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
debootstrap --variant=minbase --include=ca-certificates --keyring="$keyring" "$suite" "$folder/root" "$mirror"
# What this machine needs to reach apt and pip, an image built on it needs as well.
cp /etc/ssl/certs/ca-certificates.crt "$folder/root/etc/ssl/certs/"
for file in /etc/pip.conf /etc/apt/apt.conf.d/*proxy* /etc/apt/apt.conf.d/99*; do
    [ ! -f "$file" ] || cp "$file" "$folder/root$file"
done
tar --create --directory "$folder/root" . | docker import --change 'CMD ["bash"]' - debian:trixie-slim
rm -rf "$folder/root"

mkdir -p "$folder/postgres"
cat >"$folder/postgres/entrypoint" <<'END'
#!/bin/sh
set -eu
data=/var/lib/postgresql/data
if [ ! -s "$data/PG_VERSION" ]; then
    install --directory --owner=postgres --mode=0700 "$data"
    (umask 077 && printf %s "$POSTGRES_PASSWORD" >/tmp/password && chown postgres /tmp/password)
    su postgres -c "initdb --username=$POSTGRES_USER --pwfile=/tmp/password --auth=scram-sha-256 --locale=C.UTF-8 $data" >/dev/null
    echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
    su postgres -c "pg_ctl --pgdata=$data --wait --options='-c listen_addresses=' start" >/dev/null
    PGPASSWORD=$POSTGRES_PASSWORD createdb --username="$POSTGRES_USER" --host=/var/run/postgresql "$POSTGRES_DB"
    su postgres -c "pg_ctl --pgdata=$data --wait stop" >/dev/null
    rm /tmp/password
fi
exec setpriv --reuid=postgres --regid=postgres --clear-groups postgres -D "$data" -c 'listen_addresses=*'
END
chmod +x "$folder/postgres/entrypoint"
cat >"$folder/postgres/Dockerfile" <<'END'
FROM debian:trixie-slim
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends postgresql-17 \
    && install --directory --owner=postgres /var/run/postgresql
COPY entrypoint /usr/local/bin/
ENV PATH=/usr/lib/postgresql/17/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["entrypoint"]
END
docker build --network host --tag postgres:17 "$folder/postgres"

docker build --network host --tag redis:8 - <<'END'
FROM debian:trixie-slim
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends redis-server \
    && install --directory --owner=redis /data
END

docker build --network host --tag prom/prometheus:v3.5.0 - <<'END'
FROM debian:trixie-slim
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends prometheus wget \
    && install --directory --owner=prometheus /prometheus
USER prometheus
ENTRYPOINT ["prometheus"]
END
