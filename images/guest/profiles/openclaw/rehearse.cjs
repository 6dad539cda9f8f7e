// Loaded before OpenClaw when an image is built: its gateway runs once, until some seconds after it
// listens, and leaves the compiled code of what it loaded. Never part of an image.
'use strict';

const fs = require('node:fs');
const { Server } = require('node:net');
const threads = require('node:worker_threads');

const PORT = 18789;
// What is loaded only once it listens takes two seconds.
const LINGER = 5000;

const { listen } = Server.prototype;

if (threads.isMainThread && process.argv.includes('gateway')) {
    Server.prototype.listen = function (...how) {
        this.once('listening', () => this.address()?.port === PORT && setTimeout(end, LINGER));
        return listen.apply(this, how);
    };
}

function end() {
    fs.writeFileSync('/compiled/listened', '');
    process.kill(process.pid, 'SIGTERM');
}
