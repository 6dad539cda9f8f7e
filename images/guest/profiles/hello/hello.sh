#!/bin/sh
# The smallest workload there is: a page that says who answers. `user` in memory only.
set -eu
port=8080
root=/tmp/hello
name=$(hostname)
mkdir -p "$root"
{
    echo '<!doctype html>'
    echo "<title>hello from $name</title>"
    echo "<p>hello from $name</p>"
} >"$root/index.html"
echo ok >"$root/health"
exec busybox httpd -f -p "$port" -h "$root"
