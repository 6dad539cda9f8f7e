#!/bin/sh
# A tenant's OpenClaw gateway. Root only makes its directory and reads its token; what listens is
# `user`, without a way back.
set -eu
port=18789
state=/data/openclaw
own=/run/openclaw

# Whoever may reach the port needs this word: the tenant's secret of that name, else one of this
# boot, kept in memory: `instance exec … -- cat /run/openclaw/token`.
secret=/run/secrets/OPENCLAW_GATEWAY_TOKEN
mkdir -p "$own" "$state"
chmod 700 "$own"
if [ -s "$secret" ]; then
    OPENCLAW_GATEWAY_TOKEN=$(cat "$secret")
else
    [ -s "$own/token" ] || (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$own/token")
    OPENCLAW_GATEWAY_TOKEN=$(cat "$own/token")
fi
chown user:user "$state"
chmod 700 "$state"

# The image brings the compiled code of what a gateway loads; nothing is gained by starting twice
# to find it, which OPENCLAW_NO_RESPAWN and the other prevent.
export NODE_COMPILE_CACHE=/usr/lib/mvm/compiled
export OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED=1 OPENCLAW_NO_RESPAWN=1

# An emulated CPU is too slow for one of its limits; see there.
patience=
if grep -q 'QEMU TCG' /proc/cpuinfo; then
    patience='--require /usr/lib/mvm/patience.cjs'
fi

# The image is replaced as a whole, the tenant's network has no multicast, and nobody was asked.
export OPENCLAW_GATEWAY_TOKEN OPENCLAW_STATE_DIR="$state" TMPDIR=/tmp
export OPENCLAW_NO_AUTO_UPDATE=1 OPENCLAW_DISABLE_BONJOUR=1 DO_NOT_TRACK=1
cd "$state"
exec su -s /bin/sh user -c "HOME=$state exec setpriv --nnp /usr/bin/node $patience \
    /usr/bin/openclaw gateway run --port $port --bind lan --allow-unconfigured"
