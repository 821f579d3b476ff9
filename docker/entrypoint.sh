#!/bin/sh
# Reads secrets from mounted files, then executes its arguments as a command.
#
# For each variable NAME of the list below, NAME_FILE may name a file instead, so that neither the
# compose file nor `docker inspect` shows the secret. aind-etl itself reads
# AIND_ETL_MONGODB_PASSWORD_FILE.
set -eu

refuse() {
    echo "$1" >&2
    exit 2
}

for name in POSTGRES_PASSWORD AIND_ETL_ALERT_WEBHOOK_URL CELERY_BROKER_URL; do
    eval "value=\${$name:-} file=\${${name}_FILE:-}"
    [ -n "$file" ] || continue
    [ -z "$value" ] || refuse "Both $name and ${name}_FILE are set. Unset one of them."
    [ -f "$file" ] && [ -r "$file" ] || refuse "The file '$file', named by ${name}_FILE, cannot be read \
by user $(id -u). Mount the secret there with rights to read it, or unset ${name}_FILE."
    value=$(cat "$file")
    [ -n "$value" ] || refuse "The file '$file', named by ${name}_FILE, is empty. Write the secret into it."
    export "$name=$value"
done

# Celery keeps the states of tasks in the broker, unless another backend is set.
export CELERY_RESULT_BACKEND="${CELERY_RESULT_BACKEND:-${CELERY_BROKER_URL:-}}"

exec "$@"
