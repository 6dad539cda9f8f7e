// Loaded before OpenClaw where the CPU is emulated (gateway.sh), and when an image is built.
'use strict';

const { syncBuiltinESMExports } = require('node:module');
const threads = require('node:worker_threads');

// The thread that keeps OpenClaw's state lease alive must be up within five seconds, a constant.
// An emulated CPU needs up to twenty for it when others want the host too.
const LIMIT = 5000;
const TIMES = 12;

const plain = globalThis.setTimeout;

function setTimeout(callback, delay, ...rest) {
    return plain(callback, isLeaseLimit(delay) ? delay * TIMES : delay, ...rest);
}

function isLeaseLimit(delay) {
    return delay > LIMIT / 2 && delay <= LIMIT
        && new Error().stack.includes('startOpenClawStateLeaseHeartbeat');
}

// Threads that are given an environment of their own lose the way to the compiled code.
class Worker extends threads.Worker {
    constructor(file, options) {
        const own = options !== undefined && typeof options.env === 'object' && options.env !== null;
        super(file, own ? { ...options, env: { ...compiled(), ...options.env } } : options);
    }
}

function compiled() {
    const dir = process.env.NODE_COMPILE_CACHE;
    return dir === undefined ? {} : { NODE_COMPILE_CACHE: dir };
}

if (threads.isMainThread) {
    Object.defineProperties(setTimeout, Object.getOwnPropertyDescriptors(plain));
    globalThis.setTimeout = setTimeout;
    threads.Worker = Worker;
    syncBuiltinESMExports();
}
