-- One trip to a Redis or Valkey store: ARGV[1] says which. Redis runs a script as one step, on its own clock.
--
-- All keys are ob:{shard}:..., so they lie together on a cluster, also those that are found only here:
--   revision, rules                  when the shard began, and how often its overrides have changed since; those by key
--   holds                            the open holds, by when they expire, ms
--   h:<id>                           an open hold, or the mark of an ended one
--   a:<start>_<end>:<key>            an account in a window: used, held; packed
--   w:<length>:<key>                 one in a rolling window: the same, and the bucket of which used is the sum
--   b:<length>:<key>                 what that has used, by the number of the bucket
--   r:<id>                           the record of a shared run: opened, state, changes, when it was opened, ms
--
-- Numbers are doubles, exact up to 2^53: no sum goes beyond TOP, which is above every limit.
--
-- All of this runs for each trip, and making a function or a named field takes longer than using it: there are few
-- functions, the trips at the end are branches, and what only rolling windows need is not in other accounts.
local TOP = 9007199254740991
local HIGHEST_HELD = 4611686018427387904 -- 2^62, which still fits when it is packed
local GRACE, MARK, KEYED_MARK, KEPT = 5000, 3600000, 86400000, 86400000
local RECLAIMED, ONE_MORE = 20, '21' -- a text, which needn't become one for each trip
local BUCKETS, KEPT_BUCKETS = 60, 128
local SEVEN = '<i8i8i8i8i8i8i8'
local FOURTEEN = '<i8i8i8i8i8i8i8i8i8i8i8i8i8i8'
local ROLLING, LIFETIME = 119, '0_9007199254740991:' -- "w", and what follows "a:" of a lifetime
local CHANGED = 15
local NOTHING, NONE = { 0, 0, 0, 0, 0, 0, 0 }, string.rep('\0', 56) -- and packed

-- KEYS: revision; a hold, of which there need be none, or the record of a run; accounts.
local call, trip, now = redis.call, ARGV[1], tonumber(ARGV[2])
local prefix = string.sub(KEYS[1], 1, -9)
local holds, kind = prefix .. 'holds', #prefix + 1
local lines, others, plain, saturated, revision = {}, nil, {}, 0, nil
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Amounts of each resource, and then where the next ones begin.
local function numbers(text, from)
  return { struct.unpack(SEVEN, text, from) }
end

-- Whether a digest is of another payload: the first of its two words says what was asked, the second who has.
local function differs(kept, digest)
  return digest ~= '' and kept ~= '' and string.match(kept, '^[^ ]*') ~= string.match(digest, '^[^ ]*')
end

local function sum(a, b)
  if a + b < TOP then return a + b end
  if a < TOP then saturated = 1 end
  return TOP
end

-- What only a rolling account has, and the sum of its buckets, as windows.bucket counts them, if it has moved on.
local function roll(one, key, row)
  local length, name = string.match(key, '^(%d+)(:.*)$', kind + 2)
  one.bucket, one.buckets = math.floor(now * BUCKETS / (length * 1000)), prefix .. 'b:' .. length .. name
  one.lives = math.ceil(length * 1000 * (BUCKETS + 1) / BUCKETS) + KEPT
  if not row or struct.unpack('<i8', row, 113) == one.bucket then return end
  for i = 1, 7 do one[i] = 0 end
  local found = call('HGETALL', one.buckets)
  for n = 1, #found, 2 do
    if tonumber(found[n]) >= one.bucket - BUCKETS then
      local amounts = numbers(found[n + 1])
      for i = 1, 7 do one[i] = sum(one[i], amounts[i]) end
    end
  end
end

-- Those go that have left the window long ago; not the latest, which count again if the clock is set back.
local function charge_bucket(one, actual)
  local field = string.format('%.0f', one.bucket)
  local row = call('HGET', one.buckets, field)
  local amounts = row and numbers(row) or { 0, 0, 0, 0, 0, 0, 0 }
  for i = 1, 7 do amounts[i] = math.min(amounts[i] + actual[i], TOP) end
  call('HSET', one.buckets, field, struct.pack(SEVEN, unpack(amounts, 1, 7)))
  call('PEXPIRE', one.buckets, one.lives)
  if row or call('HLEN', one.buckets) <= KEPT_BUCKETS then return end
  local found = {}
  for n, number in ipairs(call('HKEYS', one.buckets)) do found[n] = tonumber(number) end
  table.sort(found)
  for n = 1, #found - KEPT_BUCKETS / 2 do
    if found[n] < one.bucket - BUCKETS then call('HDEL', one.buckets, string.format('%.0f', found[n])) end
  end
end

-- An account as this trip leaves it: [1] to [7] are used, [8] to [14] held, [CHANGED] is true if it is to be written.
local function account(key, row)
  local one = { struct.unpack(FOURTEEN, row or string.rep('\0', 112)) }
  if string.byte(key, kind) == ROLLING then roll(one, key, row) end
  return one
end

local function accounts_of(keys)
  if not others then
    others = {}
    for n = 1, #lines do others[KEYS[n + 2]] = lines[n] end
  end
  local found = {}
  for n, key in ipairs(keys) do
    others[key] = others[key] or account(key, call('GET', key))
    found[n] = others[key]
  end
  return found
end

-- Hold so much more on each account, or with the sign -1 less, and charge what was used.
local function change(those, held, sign, used)
  for n = 1, #those do
    local one, changed, charged = those[n], false, false
    for i = 1, 7 do
      local more, spent = held[i], used[i]
      if more ~= 0 then
        more, changed = one[7 + i] + sign * more, true
        one[7 + i] = more < 0 and 0 or more > HIGHEST_HELD and HIGHEST_HELD or more
      end
      if spent ~= 0 then
        local total = one[i] + spent
        one[i], charged = total < TOP and total or sum(one[i], spent), true
      end
    end
    if changed or charged then one[CHANGED] = true end
    if charged and one.bucket then charge_bucket(one, used) end
  end
end

-- The mark of an ended hold: state and digest, and of one that has expired amounts and on_expiry, packed. An open one
-- has the keys of its accounts as well, packed.
local function mark(key, digest, ended)
  call('SET', key, cmsgpack.pack(ended), 'PX', digest == '' and MARK or KEYED_MARK)
  call('ZREM', holds, string.sub(key, #prefix + 3))
end

local function reclaim(but)
  local left = RECLAIMED
  for _, id in ipairs(call('ZRANGEBYSCORE', holds, '-inf', now, 'LIMIT', '0', ONE_MORE)) do
    local key = prefix .. 'h:' .. id
    if key ~= but and left > 0 then
      left = left - 1
      local row = call('GET', key)
      if row then
        local due = cmsgpack.unpack(row)
        change(accounts_of(cmsgpack.unpack(due[5])), numbers(due[3]), -1, numbers(due[4]))
        mark(key, due[2], { 'expired', due[2], due[3], due[4] })
      else
        call('ZREM', holds, id)
      end
    end
  end
end

-- What is stored of an account. It goes when its window is long over and nothing is held on it; a lifetime never.
local function write(key, one)
  local row = struct.pack(FOURTEEN, unpack(one, 1, 14))
  if one[CHANGED] ~= true then return row end
  one[CHANGED] = false
  local stored, lives = one.bucket and row .. struct.pack('<i8', one.bucket) or row, false
  if one[8] + one[9] + one[10] + one[11] + one[12] + one[13] + one[14] == 0 then
    lives = one.lives
    if not lives and string.sub(key, kind + 2, kind + 20) ~= LIFETIME then
      lives = math.max(string.match(key, '_(%-?%d+):', kind + 2) * 1000 - now, 0) + KEPT
    end
  end
  if lives then
    call('SET', key, stored, 'PX', lives)
  else
    local n = #plain
    plain[n + 1], plain[n + 2] = key, stored
  end
  return row
end

-- Code, now, whether a sum has stopped, used and held of each line, the line and the resource that refuse, revision.
local function answer(code, line, resource)
  local seen = {}
  for n = 1, #lines do seen[n] = write(KEYS[n + 2], lines[n]) end
  if others then
    for key, one in pairs(others) do write(key, one) end
  end
  if #plain > 0 then call('MSET', unpack(plain)) end
  return { code, now, saturated, table.concat(seen), line or -1, resource or -1, revision }
end

-- As stores.base.judge: code, line, resource. The limits begin with which resources have any; each line's follow.
local function judge(limits, amounts, own)
  local limited, busy = #limits / 8 / (#lines + 1), nil
  local limit = { struct.unpack('<' .. string.rep('i8', #limits / 8), limits) }
  for n = 1, #lines do
    local one = lines[n]
    for at = 1, limited do
      local i, most = limit[at], limit[limited * n + at]
      local more = amounts[i] - own[i]
      if more > 0 and most >= 0 and one[i] + one[7 + i] + more > most then
        if one[i] + amounts[i] > most then return 'limit', n - 1, i - 1 end
        busy = busy or { n - 1, i - 1 }
      end
    end
  end
  if busy then return 'busy', busy[1], busy[2] end
end

-- All of KEYS at once. At "none" nothing ever is: a node of a cluster that gives this slot away refuses it, and so the
-- whole trip, before that has written anything; what it needs further on may have gone.
local read = call('MGET', prefix .. 'none', unpack(KEYS))
local key, found = KEYS[2], read[3] and cmsgpack.unpack(read[3])
for n = 3, #KEYS do lines[n - 2] = account(KEYS[n], read[n + 1]) end
revision = read[2]
-- Who has seen an earlier beginning knows by this one that data was lost.
if not revision then
  local time = call('TIME')
  revision = string.format('%s%06d.0', time[1], time[2])
  call('SET', KEYS[1], revision)
end

-- ARGV: digest; ms to live, 0 if it is new, from and to when all windows last, amounts, on_expiry; limits, see judge.
if trip == 'reserve' then
  local digest, asked, limits = ARGV[3], ARGV[4], ARGV[5]
  if found and differs(found[2], digest) then return { 'payload', now } end
  local ttl, known, first, last = struct.unpack('<i8i8i8i8', asked)
  local again = found and known == 0 and digest ~= '' and found[2] ~= ''
  if again and found[1] == 'expired' then found = nil end
  local new = not found and known == 0
  if new and (now < first * 1000 or now >= last * 1000) then return { 'window', now } end
  reclaim(key)
  if again and found and found[1] == 'open' then
    call('ZADD', holds, now + ttl + GRACE, string.sub(key, #prefix + 3))
    return answer(found[2] == digest and 'held' or 'replayed')
  end
  if not new and not (found and found[1] == 'open') then return answer('gone') end
  local keys = cmsgpack.pack({ unpack(KEYS, 3) })
  if found and found[5] ~= keys then return { 'lines', now } end
  local amounts, own = numbers(asked, 33), found and numbers(found[3]) or NOTHING
  local code, line, resource = judge(limits, amounts, own)
  if code then return answer(code, line, resource) end
  if found then change(lines, own, -1, NOTHING) end
  change(lines, amounts, 1, NOTHING)
  local packed, on_expiry = string.sub(asked, 33, 88), string.sub(asked, 89)
  plain = { key, cmsgpack.pack({ 'open', found and found[2] or digest, packed, on_expiry, keys }) }
  call('ZADD', holds, now + ttl + GRACE, string.sub(key, #prefix + 3))
  return answer('held')
end

-- ARGV: digest; 0 if a record charges something, from and to when all windows last, actual.
if trip == 'settle' then
  local digest, ended, others_did = ARGV[3], ARGV[4], 0
  if found and differs(found[2], digest) then return { 'payload', now } end
  if found and found[1] == 'settled' and digest ~= '' and found[2] ~= '' and found[2] ~= digest then others_did = 1 end
  local actual, was = numbers(ended, 25), found and found[1] or 'unknown'
  if was == 'unknown' then
    local known, first, last = struct.unpack('<i8i8i8', ended)
    if known == 0 and (now < first * 1000 or now >= last * 1000) then return { 'window', now } end
    change(lines, NOTHING, 1, actual)
  elseif was == 'open' then
    local its = cmsgpack.pack({ unpack(KEYS, 3) }) == found[5] and lines or accounts_of(cmsgpack.unpack(found[5]))
    change(its, numbers(found[3]), -1, actual)
  elseif was == 'expired' then
    local paid = numbers(found[4])
    for i = 1, 7 do actual[i] = math.max(0, actual[i] - paid[i]) end
    change(lines, NOTHING, 1, actual)
  end
  if found and (digest == '' or found[2] == '') then digest = found[2] end
  if digest == '' or string.sub(ended, 25) ~= NONE then
    if was ~= 'settled' then mark(key, digest, { 'settled', digest }) end
  elseif was == 'open' or was == 'unknown' then
    mark(key, digest, { 'expired', digest, NONE, NONE })
  end
  return answer(was, others_did)
end

if trip == 'read' then
  reclaim()
  return answer('seen')
end

-- The same without reclaiming.
if trip == 'look' then return answer('seen') end

-- ARGV: ms to live, ids.
if trip == 'renew' then
  for n = 4, #ARGV do call('ZADD', holds, 'XX', now + ARGV[3] + GRACE, ARGV[n]) end
  return { 'renewed', now }
end

-- ARGV: key, and the rules if they are not to be removed.
if trip == 'configure' then
  if ARGV[4] then
    call('HSET', prefix .. 'rules', ARGV[3], ARGV[4])
  else
    call('HDEL', prefix .. 'rules', ARGV[3])
  end
  local began, changes = string.match(revision, '^(%d+)%.(%d+)$')
  call('SET', KEYS[1], string.format('%s.%d', began, changes + 1))
  return { 'configured', now }
end

if trip == 'reset' then
  for n, one in ipairs(lines) do
    local first, last = string.match(KEYS[n + 2], '^(%-?%d+)_(%-?%d+):', kind + 2)
    if one.bucket or now >= first * 1000 and now < last * 1000 then
      for i = 1, 7 do one[i] = 0 end
      if one.bucket then call('DEL', one.buckets) end
      one[CHANGED] = true
    end
  end
  return answer('reset')
end

-- ARGV: how long it lives, ms; if it is to be written, opened, state, changes.
if trip == 'run' then
  local changes = tonumber(ARGV[6])
  if found and now >= found[4] + ARGV[3] then found = nil end
  if not found and changes == 0 then
    found = { ARGV[4], ARGV[5], 0, now }
    call('SET', key, cmsgpack.pack(found), 'PX', ARGV[3])
  elseif found and changes == found[3] + 1 then
    found[2], found[3] = ARGV[5], changes
    call('SET', key, cmsgpack.pack(found), 'KEEPTTL')
  end
  if not found then return { 'run', now } end
  return { 'run', now, unpack(found) }
end
