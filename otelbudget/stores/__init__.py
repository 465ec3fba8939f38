"""Where accounts live: in the memory of this process, in a SQLite file, or in a Redis or Valkey server.

How far it grows, by what was measured (Redis 7, one core of a small virtual machine; the whole suite beside it):

- **One server.** A call on five quotas is two trips, a reserve and a settle: 34 and 29 us inside the script, about
  100 us of the server's core with many clients, 170 with one. A script runs alone, so one core carries about 10,000
  calls per second, 600,000 a minute. An ended call is remembered for an hour: 180 bytes each, at 1,000 calls per
  second 650 MB.
- **Leases.** With ``lease: 1%`` a process takes a hundredth of a limit in one trip and spends it by itself, as fast
  as in memory. An account in steady use then costs each process three trips in `lease.BLOCK_S`, whatever the rate:
  200 accounts (as many as a process leases) in each of a hundred processes are 20,000 trips per second, those of
  10,000 calls without. So leases pay where few accounts have many calls, not where many have a call each. The price:
  the last percents of a limit are ``busy`` for some seconds, and so long others spend on under a limit that has been
  changed; what they spent of their blocks before a reset counts after it; a killed process has spent its blocks.
- **Sharding.** All accounts of an organisation lie on one node of a cluster, with ``shard_by: tenant`` all of a
  tenant, since one script judges them together. Three nodes carry three times as much, if the tenants are many; the
  greatest tenant has one core. Quotas of a whole organisation, of models and of tags can't be counted then.
- **A million runs per minute**, of ten calls each: 170,000 calls, 330,000 trips per second. That is 17 cores by
  tenants alone; or with leases, where 500 processes have 40 accounts each in use, 500 * 40 * 3 trips in three
  seconds: 20,000 per second, one core, and a second one to be at ease. Sharding comes first where tenants are many
  and small, leases where they are few and large.
- **A partition.** Who can't reach the server spends what it has leased, then does what ``on_error`` says. Who can
  goes on, against limits on which the blocks of the others are held, for `ttl` and five seconds; after that they are
  charged in full, so nothing is spent twice. A replica that is made master knows nothing of the last moments (`WAIT`
  is not used): what was held then is settled all the same, what was settled then is gone, and can be spent again: so
  much as its replication lags behind, which ``min-replicas-max-lag`` of the server bounds.
"""
