"""Several servers that belong together: a master with a replica and Sentinels, and a cluster of three nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from redis_server import RedisServer, certificate, free_port

SENTINEL = """sentinel monitor quotas 127.0.0.1 {master} 2
sentinel down-after-milliseconds quotas 500
sentinel failover-timeout quotas 3000
"""
SLOTS = ((0, 5460), (5461, 10_922), (10_923, 16_383))


class Watched(NamedTuple):
    """A master, its replica, and the address that leads to the one that is master."""

    master: RedisServer
    replica: RedisServer
    url: str


@contextmanager
def watched(folder: Path, *, secure: bool = False) -> Iterator[Watched]:
    """A master and a replica that three Sentinels watch; with passwords and TLS if it is to be *secure*."""
    with ExitStack() as ending:
        tls = certificate(folder) if secure else None
        passwords = ("of-the-servers", "of-the-sentinels") if secure else (None, None)
        master, replica = (
            _begun(ending, RedisServer(_new(folder, name), password=passwords[0], tls=tls))
            for name in ("master", "replica")
        )
        replica.ask("REPLICAOF", "127.0.0.1", str(master.port))
        until(lambda: replica.ask("INFO", "replication")["master_link_status"] == "up")
        config = SENTINEL.format(master=master.port)
        if secure:
            config += f"sentinel auth-pass quotas {passwords[0]}\nsentinel sentinel-pass {passwords[1]}\n"
        sentinels = [
            _begun(ending, RedisServer.sentinel(_new(folder, f"sentinel-{i}"), config, password=passwords[1], tls=tls))
            for i in range(3)
        ]
        for sentinel in sentinels:
            until(partial(_knows_all, sentinel))
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        url = f"redis+sentinel://{hosts}/quotas/0"
        if secure:
            login = f"?sentinel_password={passwords[1]}&ssl_ca_certs={tls}"
            url = f"rediss+sentinel://:{passwords[0]}@{hosts}/quotas/0{login}"
        yield Watched(master, replica, url)


def _knows_all(sentinel: RedisServer) -> bool:
    known = sentinel.ask("INFO", "sentinel")["master0"]
    return bool((known["slaves"], known["sentinels"], known["status"]) == (1, 3, "ok"))


@contextmanager
def cluster(folder: Path, *, tls: Path | None = None) -> Iterator[list[RedisServer]]:
    """Three nodes that share the slots."""
    with ExitStack() as ending:
        nodes: list[RedisServer] = []
        for i, (first, last) in enumerate(SLOTS):
            bus = str(free_port())
            options = ["--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-require-full-coverage", "no"]
            options += ["--tls-cluster", "yes"] if tls is not None else []
            nodes.append(_begun(ending, RedisServer(_new(folder, f"node-{i}"), *options, tls=tls)))
            nodes[i].ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", str(nodes[i].port), bus)
        for node in nodes:
            until(partial(is_whole, node))
        yield nodes


class Move:
    """A slot on its way from the node that has it to the next: `some` keys, then the `rest`."""

    def __init__(self, nodes: list[RedisServer], tag: str) -> None:
        self.slot = str(nodes[0].ask("CLUSTER", "KEYSLOT", f"{{{tag}}}"))
        names = [node.ask("CLUSTER", "MYID").decode() for node in nodes]
        at = next(i for i, node in enumerate(nodes) if int(node.ask("CLUSTER", "COUNTKEYSINSLOT", self.slot)))
        self.source, self.target = nodes[at], nodes[(at + 1) % len(nodes)]
        self._from, self._to = names[at], names[(at + 1) % len(nodes)]
        self.target.ask("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self._from)
        self.source.ask("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self._to)

    def some(self, *wanted: str) -> None:
        """Move the keys in which one of *wanted* occurs."""
        keys = [key.decode() for key in self.source.ask("CLUSTER", "GETKEYSINSLOT", self.slot, "100000")]
        if going := [key for key in keys if any(one in key for one in wanted)]:
            self.source.ask("MIGRATE", "127.0.0.1", str(self.target.port), "", "0", "5000", "KEYS", *going)

    def rest(self) -> None:
        """Move all keys, and the slot."""
        self.some("")
        for node in (self.target, self.source):
            node.ask("CLUSTER", "SETSLOT", self.slot, "NODE", self._to)


def is_whole(node: RedisServer) -> bool:
    """Whether a node knows of all slots of its cluster."""
    known = node.ask("CLUSTER INFO")
    return bool((known["cluster_state"], known["cluster_slots_ok"]) == ("ok", "16384"))


def _new(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made


def _begun(ending: ExitStack, server: RedisServer) -> RedisServer:
    ending.callback(server.kill)
    return server


def until(done: Callable[[], bool], within_s: float = 30) -> None:
    """Wait until *done*."""
    ends_s = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < ends_s
        time.sleep(0.05)
