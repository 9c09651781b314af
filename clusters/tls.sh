#!/usr/bin/env bash
# Certificates with which Ray's nodes encrypt what they say to each other and let in nobody without one (docs/security.md).
#
#   clusters/tls.sh ca DIR                 # once, on your machine; DIR/ca.key signs and must not leave it
#   clusters/tls.sh node DIR ADDRESS ...   # DIR/node.crt and DIR/node.key for machines with these addresses or names
#
# Every node and every driver then gets ca.crt, node.crt and node.key, and before `ray start`:
#
#   export RAY_USE_TLS=1 RAY_TLS_CA_CERT=DIR/ca.crt RAY_TLS_SERVER_CERT=DIR/node.crt RAY_TLS_SERVER_KEY=DIR/node.key
set -euo pipefail
umask 077
usage() {
    sed -n '2,5p' "$0" >&2
    exit 2
}
[ $# -ge 2 ] || usage
command=$1 folder=$2
shift 2
mkdir -p "$folder"
case $command in
ca)
    [ $# -eq 0 ] || usage
    if [ -e "$folder/ca.key" ]; then
        echo "error: $folder/ca.key is there: nodes with its certificates would be locked out by another" >&2
        exit 1
    fi
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 3650 -subj "/CN=jasper-ray CA" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -keyout "$folder/ca.key" -out "$folder/ca.crt" 2>/dev/null
    ;;
node)
    [ $# -gt 0 ] || usage
    [ -e "$folder/ca.key" ] || { echo "error: no $folder/ca.key: tls.sh ca $folder first" >&2; exit 1; }
    names="DNS:localhost,IP:127.0.0.1"
    for address in "$@"; do
        case $address in
        *[!0-9.]*) names="$names,DNS:$address" ;;
        *) names="$names,IP:$address" ;;
        esac
    done
    extensions=$(mktemp)
    trap 'rm -f "$extensions" "$folder/node.csr"' EXIT
    printf 'subjectAltName=%s\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n' \
        "$names" >"$extensions"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -subj "/CN=jasper-ray node" \
        -keyout "$folder/node.key" -out "$folder/node.csr" 2>/dev/null
    openssl x509 -req -in "$folder/node.csr" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -CAcreateserial -days 825 \
        -sha256 -extfile "$extensions" -out "$folder/node.crt" 2>/dev/null
    ;;
*) usage ;;
esac
