#!/bin/sh
# A tenant's entry until it has a real one: a page that says whose gateway answers.
set -eu
root=/tmp/gateway
mkdir -p "$root"
name=$(hostname)
{
    echo '<!doctype html>'
    echo "<title>$name</title>"
    echo "<p>mvm gateway $name</p>"
} >"$root/index.html"
exec busybox httpd -f -p 8080 -h "$root"
