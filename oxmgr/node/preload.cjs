// Loaded into Node apps before their own code (NODE_OPTIONS=--require), by oxmgr, for three things:
//
// - server.listen() takes the socket that oxmgr holds, when it asks for that very address. So nobody is refused while
//   the app restarts, and several instances share one port with no process between.
// - oxmgr is told when the app listens.
// - An app that would die of its stop signal answers first what it was asked over HTTP.
//
// All else stays as it is: what does not match goes to Node's own listen(), errors included.
//
// OXMGR_LISTEN is `fd,fd,…:inode:backlog:address`, with | between them: several fds of the same socket, for a server
// that is closed takes its fd with it. OXMGR_READY is `fd:inode` of a pipe that takes a newline. An fd is what it is
// said to be when its inode is; a process that has not inherited it does without. OXMGR_STOP is the number of the signal.
'use strict';

const fs = require('fs');

const LISTEN = 'OXMGR_LISTEN';
const READY = 'OXMGR_READY';
const STOP = 'OXMGR_STOP';

function inodeOf(fd) {
  try {
    return fs.fstatSync(fd, { bigint: true }).ino;
  } catch {
    return -1n;
  }
}

function readHeld(text) {
  const held = [];
  for (const entry of (text || '').split('|')) {
    const parts = /^([\d,]+):(\d+):(\d+):(.+)$/.exec(entry);
    if (!parts) continue;
    const place = parts[4].replace(/%7C/g, '|').replace(/%25/g, '%');
    if (place.startsWith('udp:')) continue;
    const one = { fds: parts[1].split(',').map(Number), inode: BigInt(parts[2]), backlog: Number(parts[3]), place };
    if (place.startsWith('unix:')) {
      one.path = place.slice('unix:'.length);
    } else {
      one.host = place.slice(0, place.lastIndexOf(':')).replace(/^\[|\]$/g, '');
      one.port = Number(place.slice(place.lastIndexOf(':') + 1));
    }
    held.push(one);
  }
  return held;
}

function readReady(text) {
  const parts = /^(\d+):(\d+)$/.exec(text || '');
  return parts ? { fd: Number(parts[1]), inode: BigInt(parts[2]) } : null;
}

const held = readHeld(process.env[LISTEN]);
const ready = readReady(process.env[READY]);

if (held.length || ready) {
  const net = require('net');
  const childProcess = require('child_process');
  const taken = takenFds();

  const watch = watchServers(net);

  patchListen(net);
  patchSpawn(childProcess);

  // Which fds are in use by a server of this process: all threads of it have the same fds, so they share the list.
  function takenFds() {
    const threads = require('worker_threads');
    const known = threads.isMainThread ? null : threads.getEnvironmentData('oxmgr-taken');
    const shared = known || new SharedArrayBuffer(4 * (1 + held.reduce((most, one) => Math.max(most, ...one.fds), 0)));
    if (threads.isMainThread) threads.setEnvironmentData('oxmgr-taken', shared);
    return new Int32Array(shared);
  }

  // --- listen ---

  function isPort(value) {
    return (typeof value === 'number' && value > 0) || (typeof value === 'string' && value.trim() !== '' && Number(value) > 0);
  }

  // What server.listen(…) was asked for; null for what is no address: a handle, an fd, any free port.
  function asked(args) {
    let options = args[0];
    if (typeof options === 'number' || typeof options === 'string') {
      options = isPort(options) ? { port: options } : { path: options };
      if (typeof args[1] === 'string') options.host = args[1];
    }
    if (options === null || typeof options !== 'object' || options._handle || options.handle) return null;
    if (options.fd !== undefined && options.fd !== null) return null;
    if (options.reusePort || options.ipv6Only) return null;
    const given = args.slice(1).find((word, at) => at < 2 && typeof word === 'number' && word > 0);
    const backlog = given || (options.backlog > 0 ? Number(options.backlog) : 0);
    if (isPort(options.port)) return { options, backlog, port: Number(options.port), host: options.host };
    if (options.port === undefined && typeof options.path === 'string') return { options, backlog, path: options.path };
    return null;
  }

  // The addresses that are as good as the one that was asked for, the best first. Who names no host has no opinion, and
  // takes what there is at that port; who names all IPv4 addresses is served by a socket of all addresses. But nobody
  // who asks for one address gets more than that one.
  const ANY = ['::', '0.0.0.0'];

  function suits(host) {
    if (host === undefined || host === null || host === '') return (one) => (ANY.includes(one) ? ANY.indexOf(one) : 2);
    if (ANY.includes(host)) return (one) => (one === host ? 0 : ANY.includes(one) ? 1 : -1);
    if (host === 'localhost') return (one) => ['127.0.0.1', '::1'].indexOf(one);
    const plain = String(host).toLowerCase();
    return (one) => (one === plain ? 0 : -1);
  }

  function find(what) {
    let candidates;
    if (what.path !== undefined) {
      const path = require('path').resolve(what.path);
      candidates = held.filter((one) => one.path === path);
    } else {
      const rank = suits(what.host);
      candidates = held
        .filter((one) => one.port === what.port && rank(one.host) >= 0)
        .sort((one, other) => rank(one.host) - rank(other.host));
    }
    for (const one of candidates) {
      const fd = take(one);
      if (fd >= 0) return { one, fd };
    }
    return null;
  }

  // An fd of it for one server; -1 when a server of this process has that address, or none is left.
  function take(one) {
    if (one.fds.some((fd) => Atomics.load(taken, fd) === 1)) return -1;
    for (const fd of one.fds) {
      if (inodeOf(fd) === one.inode && Atomics.compareExchange(taken, fd, 0, 1) === 0) return fd;
    }
    return -1;
  }

  function patchListen(net) {
    const listen = net.Server.prototype.listen;

    function held_listen(...args) {
      if (!this._handle) watch(this);
      const what = this._handle ? null : asked(args);
      // A worker of Node's own cluster asks its primary, and there this very function is asked.
      const found = what && !process.env.NODE_UNIQUE_ID ? find(what) : null;
      if (!found) {
        if (ready && !this._handle && !held.length) this.once('listening', tellReady);
        return Reflect.apply(listen, this, args);
      }
      const { one, fd } = found;
      const callback = args.length && typeof args[args.length - 1] === 'function' ? args[args.length - 1] : undefined;
      const release = () => Atomics.store(taken, fd, 0);
      const options = { ...what.options, fd };
      for (const key of ['port', 'host', 'path', 'backlog', 'readableAll', 'writableAll']) delete options[key];
      this.once('listening', tellReady);
      try {
        Reflect.apply(listen, this, [options, what.backlog || one.backlog, ...(callback ? [callback] : [])]);
      } catch (error) {
        this.removeListener('listening', tellReady);
        release();
        throw error;
      }
      const handle = this._handle;
      if (!handle) {
        release();
        return this;
      }
      if (one.path) this._pipeName = what.path;
      else this._connectionKey = `${one.host.includes(':') ? 6 : 4}:${one.host}:${one.port}`;
      const close = handle.close;
      handle.close = function (...rest) {
        release();
        delete handle.close;
        return Reflect.apply(close, handle, rest);
      };
      return this;
    }

    Object.defineProperty(held_listen, 'name', { value: listen.name });
    Object.defineProperty(held_listen, 'length', { value: listen.length });
    net.Server.prototype.listen = held_listen;
  }

  function tellReady() {
    if (ready && inodeOf(ready.fd) === ready.inode) {
      try {
        fs.writeSync(ready.fd, '\n');
      } catch {
        // oxmgr has heard it already.
      }
    }
  }

  // --- the end ---

  // Milliseconds: who has asked so recently may be about to ask again on the same connection. Closed now, it would meet
  // that request on its way; so it is let be until then, and told by its next answer (RFC 9112, 9.6).
  const LINGER = 1000;
  const TICK = 20;

  // A function that is told of each server before it listens. On the stop signal the HTTP servers end in order, if the
  // app has no handler for it: no connection is taken any more, what was asked is answered, with `Connection: close`, and
  // then the signal does what it would have done. An app that has a handler ends by itself; what it answers until then has
  // that header too.
  function watchServers(net) {
    const constants = require('os').constants.signals;
    const signal = Object.keys(constants).find((name) => constants[name] === Number(process.env[STOP]));
    if (!signal || !require('worker_threads').isMainThread) return () => {};
    const now = () => require('perf_hooks').performance.now();
    const servers = new Map(); // and the connections of each, with the times when they asked last
    const sessions = new Set(); // of HTTP/2
    let stopping = false;
    let ending = false;

    function add(server) {
      if (servers.has(server)) return;
      if (typeof server.updateSettings === 'function') {
        servers.set(server, new Map());
        server.on('session', (session) => {
          sessions.add(session);
          session.once('close', () => sessions.delete(session));
        });
      } else if (server.keepAliveTimeout !== undefined) {
        servers.set(server, watchHttp(server));
      } else {
        return;
      }
      if (servers.size === 1) hear();
    }

    function watchHttp(server) {
      const asked = new Map();
      const connected = (socket) => {
        asked.delete(socket._parent); // TLS is on top of another one, which was there first
        asked.set(socket, now());
        socket.once('close', () => asked.delete(socket));
      };
      server.on('connection', connected);
      if (typeof server.setSecureContext === 'function') server.on('secureConnection', connected);
      server.on('request', (request) => {
        if (asked.has(request.socket)) asked.set(request.socket, now());
      });
      return asked;
    }

    // Our handler is first, and nobody's business: there are those who end by the signal when theirs is the only one
    // (signal-exit). Node itself has to count it, or it would let go of the signal with the last one of the app.
    function hear() {
      process.prependListener(signal, stop);
      for (const method of ['listeners', 'rawListeners']) {
        const inherited = process[method];
        process[method] = function (name) {
          return Reflect.apply(inherited, this, [name]).filter((one) => one !== stop);
        };
      }
    }

    function stop() {
      if (!stopping) {
        stopping = true;
        for (const [server, asked] of servers) {
          server.prependListener('request', (request, response) => lastAnswer(response));
          for (const socket of asked.keys()) lastAnswer(socket._httpMessage);
        }
      }
      if (ending || process.listenerCount(signal) > 1) return;
      ending = true;
      for (const server of servers.keys()) if (server.listening) Reflect.apply(net.Server.prototype.close, server, []);
      for (const session of sessions) session.close();
      setInterval(look, TICK);
      look();
    }

    function lastAnswer(response) {
      if (response && !response.headersSent) response.shouldKeepAlive = false;
    }

    function look() {
      let left = sessions.size;
      for (const asked of servers.values()) {
        for (const [socket, time] of asked) {
          if (socket._httpMessage ? !isEndless(socket._httpMessage) : now() < time + LINGER) left += 1;
          else if (!socket._httpMessage) socket.destroy();
        }
      }
      if (left) return;
      process.removeListener(signal, stop);
      process.kill(process.pid, signal);
    }

    function isEndless(response) {
      // As it was sent: what is given to writeHead() is in no other place.
      return /^content-type: *text\/event-stream/im.test(response._header);
    }

    return add;
  }

  // --- child processes ---

  // Node gives a child stdin, stdout, stderr and what is asked for, and closes all else. So it is asked for.
  function patchSpawn(childProcess) {
    const spawn = childProcess.ChildProcess.prototype.spawn;
    childProcess.ChildProcess.prototype.spawn = function (options) {
      let given = options;
      try {
        given = withFds(options);
      } catch {
        given = options;
      }
      return Reflect.apply(spawn, this, [given]);
    };
    Object.defineProperty(childProcess.ChildProcess.prototype.spawn, 'name', { value: spawn.name });
  }

  function withFds(options) {
    const pairs = options.envPairs;
    if (!Array.isArray(pairs) || !pairs.some((pair) => pair.startsWith(`${LISTEN}=`) || pair.startsWith(`${READY}=`))) {
      return options;
    }
    let stdio = options.stdio === undefined || options.stdio === null ? 'pipe' : options.stdio;
    if (typeof stdio === 'string') stdio = [stdio, stdio, stdio];
    if (!Array.isArray(stdio)) return options;
    stdio = [...stdio];
    while (stdio.length < 3) stdio.push(undefined);
    const rows = [];
    for (const one of held) {
      const source = one.fds.find((fd) => inodeOf(fd) === one.inode);
      if (source === undefined) continue;
      const fds = one.fds.map(() => stdio.push(source) - 1);
      const place = one.place.replace(/%/g, '%25').replace(/\|/g, '%7C');
      rows.push(`${fds.join(',')}:${one.inode}:${one.backlog}:${place}`);
    }
    const variables = { [LISTEN]: rows.join('|') };
    if (ready && inodeOf(ready.fd) === ready.inode) variables[READY] = `${stdio.push(ready.fd) - 1}:${ready.inode}`;
    const changed = pairs.map((pair) => {
      const name = pair.slice(0, pair.indexOf('='));
      return name in variables ? `${name}=${variables[name]}` : pair;
    });
    return { ...options, stdio, envPairs: changed };
  }
}
