-- One trip to a Redis or Valkey store: ARGV[1] says which. Redis runs a script as one step, on its own clock.
--
-- All keys are ob:{shard}:..., so they lie together on a cluster, also those that are found only here:
--   holds                            the open holds, by when they expire, ms
--   h:<id>                           an open hold, or the mark of an ended one
--   a:<start>_<end>[r]:<key>         an account in a window (r: a rolling one, of that length): used, held; packed.
--                                    That of a rolling one ends with the bucket of which used is the sum
--   b:<start>_<end>r:<key>           what a rolling one has used, by the number of the bucket
--   rules, revision                  overrides by key; when the shard began, and how often they have changed since
--   r:<id>                           the record of a shared run: opened, state, changes, when it was opened, ms
--
-- Numbers are doubles, exact up to 2^53: no sum goes beyond TOP, which is above every limit.
local TOP = 9007199254740991
local HIGHEST_HELD = 4611686018427387904 -- 2^62, which still fits when it is packed
local GRACE, MARK, KEYED_MARK, KEPT = 5000, 3600000, 86400000, 86400000
local RECLAIMED, BUCKETS, KEPT_BUCKETS = 20, 60, 128
local SEVEN = '<i8i8i8i8i8i8i8'
local FOURTEEN = '<i8i8i8i8i8i8i8i8i8i8i8i8i8i8'
local EMPTY = string.rep('\0', 112)

local call = redis.call
local holds = KEYS[1]
local prefix = string.sub(holds, 1, -6)
local now = tonumber(ARGV[2])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local accounts, rows, plain, saturated = {}, {}, {}, 0

local function numbers(text, from)
  local found = { struct.unpack(SEVEN, text, from) }
  found[8] = nil -- where the next ones begin
  return found
end

local function any(amounts)
  for i = 1, 7 do
    if amounts[i] ~= 0 then return true end
  end
  return false
end

local function sum(a, b)
  if a + b < TOP then return a + b end
  if a < TOP then saturated = 1 end
  return TOP
end

local function buckets_of(key)
  return prefix .. 'b' .. string.sub(key, #prefix + 2)
end

local function add_buckets(key, one)
  local found, used = call('HGETALL', buckets_of(key)), { 0, 0, 0, 0, 0, 0, 0 }
  for n = 1, #found, 2 do
    if tonumber(found[n]) >= one.bucket - BUCKETS then
      local amounts = numbers(found[n + 1])
      for i = 1, 7 do used[i] = sum(used[i], amounts[i]) end
    end
  end
  for i = 1, 7 do one[i] = used[i] end
  one.row = struct.pack(FOURTEEN, unpack(one, 1, 14))
end

-- An account as this trip leaves it: [1] to [7] are used, [8] to [14] held.
local function account(key)
  if accounts[key] then return accounts[key] end
  local first, last, rolling = string.match(key, '^a:(%-?%d+)_(%-?%d+)(r?):', #prefix + 1)
  local row = rows[key]
  if row == nil then row = call('GET', key) end
  row = row or EMPTY
  local one = { first = tonumber(first), last = tonumber(last), row = row, struct.unpack(FOURTEEN, row) }
  if rolling == 'r' then
    one.bucket = math.floor(now * BUCKETS / (one.last * 1000)) -- as windows.bucket
    one.row = string.sub(row, 1, 112)
    if row ~= EMPTY and struct.unpack('<i8', row, 113) ~= one.bucket then add_buckets(key, one) end
  end
  accounts[key] = one
  return one
end

-- Who has seen an earlier beginning knows by this one that data was lost.
local function begin()
  local time = call('TIME')
  local began = string.format('%s%06d.0', time[1], time[2])
  call('SET', prefix .. 'revision', began)
  return began
end

-- The accounts of this trip, read at once with the hold, which it gives, and the revision.
local function accounts_from(first)
  local lines = { unpack(KEYS, first) }
  local asked = { prefix .. 'revision', KEYS[2], unpack(lines) }
  -- Nothing is ever there: a node of a cluster that gives this slot away refuses it, and so the whole trip, before that
  -- has written anything; what it needs further on may have gone.
  asked[#asked + 1] = prefix .. 'none'
  local found = call('MGET', unpack(asked))
  for n, key in ipairs(lines) do rows[key] = found[n + 2] end
  return lines, found[1] or begin(), found[2] and cmsgpack.unpack(found[2])
end

local function hold(lines, more, sign)
  for _, key in ipairs(lines) do
    local one = account(key)
    for i = 1, 7 do
      if more[i] ~= 0 then
        local held = one[7 + i] + sign * more[i]
        one[7 + i] = held < 0 and 0 or held > HIGHEST_HELD and HIGHEST_HELD or held
      end
    end
    one.changed = true
  end
end

local function charge(lines, actual)
  if not any(actual) then return end
  for _, key in ipairs(lines) do
    local one = account(key)
    local charged = one.charged or { 0, 0, 0, 0, 0, 0, 0 }
    for i = 1, 7 do
      if actual[i] ~= 0 then
        one[i], charged[i] = sum(one[i], actual[i]), charged[i] + actual[i]
      end
    end
    one.changed, one.charged = true, charged
  end
end

-- Those that have left the window long ago; not the latest, which count again if the clock is set back.
local function drop_buckets(buckets, first)
  if call('HLEN', buckets) <= KEPT_BUCKETS then return end
  local found = {}
  for _, number in ipairs(call('HKEYS', buckets)) do found[#found + 1] = tonumber(number) end
  table.sort(found)
  for n = 1, #found - KEPT_BUCKETS / 2 do
    if found[n] < first then call('HDEL', buckets, string.format('%.0f', found[n])) end
  end
end

local function write_bucket(buckets, one, ttl)
  local field = string.format('%.0f', one.bucket)
  local row = call('HGET', buckets, field)
  local amounts = row and numbers(row) or { 0, 0, 0, 0, 0, 0, 0 }
  for i = 1, 7 do amounts[i] = math.min(amounts[i] + one.charged[i], TOP) end
  call('HSET', buckets, field, struct.pack(SEVEN, unpack(amounts)))
  call('PEXPIRE', buckets, ttl)
  if not row then drop_buckets(buckets, one.bucket - BUCKETS) end
end

local function set(key, row)
  plain[#plain + 1], plain[#plain + 2] = key, row
end

-- An account goes when its window is long over and nothing is held on it; a lifetime never.
local function write()
  for key, one in pairs(accounts) do
    if one.changed then
      one.row = struct.pack(FOURTEEN, unpack(one, 1, 14))
      local row, ttl = one.row, math.max(one.last * 1000 - now, 0) + KEPT
      if one.bucket then
        ttl = math.ceil(one.last * 1000 * (BUCKETS + 1) / BUCKETS) + KEPT
        row = row .. struct.pack('<i8', one.bucket)
        if one.charged then write_bucket(buckets_of(key), one, ttl) end
      end
      if one.last == TOP or one[8] + one[9] + one[10] + one[11] + one[12] + one[13] + one[14] > 0 then
        set(key, row)
      else
        call('SET', key, row, 'PX', ttl)
      end
    end
  end
  if #plain > 0 then call('MSET', unpack(plain)) end
end

-- The mark of an ended hold: state and digest, and of one that has expired amounts and on_expiry, packed. An open one
-- has the keys of its accounts as well.
local function mark(key, ...)
  local _, digest = ...
  call('SET', key, cmsgpack.pack({ ... }), 'PX', digest == '' and MARK or KEYED_MARK)
  call('ZREM', holds, string.sub(key, #prefix + 3))
end

local function reclaim(but)
  local left = RECLAIMED
  for _, id in ipairs(call('ZRANGEBYSCORE', holds, '-inf', now, 'LIMIT', 0, RECLAIMED + 1)) do
    local key = prefix .. 'h:' .. id
    if key ~= but and left > 0 then
      left = left - 1
      local row = call('GET', key)
      if row then
        local due = cmsgpack.unpack(row)
        hold(due[5], numbers(due[3]), -1)
        charge(due[5], numbers(due[4]))
        mark(key, 'expired', due[2], due[3], due[4])
      else
        call('ZREM', holds, id)
      end
    end
  end
end

local function in_their_windows(lines)
  for _, key in ipairs(lines) do
    local one = account(key)
    if not one.bucket and (now < one.first * 1000 or now >= one.last * 1000) then return false end
  end
  return true
end

local function same(lines, others)
  for n = 1, math.max(#lines, #others) do
    if lines[n] ~= others[n] then return false end
  end
  return true
end

-- Code, now, whether a sum has stopped, used and held of each line, the line and the resource that refuse, revision.
local function answer(code, lines, revision, line, resource)
  local seen = {}
  for _, key in ipairs(lines) do account(key) end
  write()
  for n, key in ipairs(lines) do seen[n] = accounts[key].row end
  return { code, now, saturated, table.concat(seen), line or -1, resource or -1, revision }
end

-- As stores.base.judge: code, line, resource.
local function judge(lines, limits, amounts, own)
  local busy
  for n, key in ipairs(lines) do
    local one, limit = account(key), { struct.unpack(SEVEN, limits, 56 * n - 55) }
    for i = 1, 7 do
      local more = amounts[i] - own[i]
      if more > 0 and limit[i] >= 0 and one[i] + one[7 + i] + more > limit[i] then
        if one[i] + amounts[i] > limit[i] then return 'limit', n - 1, i - 1 end
        busy = busy or { n - 1, i - 1 }
      end
    end
  end
  if busy then return 'busy', busy[1], busy[2] end
end

local trips = {}

-- KEYS: holds, the hold, accounts. ARGV: digest; ms to live, amounts, held, on_expiry; limits of each line.
function trips.reserve(digest, asked, limits)
  local key, lines, revision, found = KEYS[2], accounts_from(3)
  if found and digest ~= '' and found[2] ~= '' and found[2] ~= digest then return { 'payload', now } end
  local amounts, new = numbers(asked, 9), not found and not any(numbers(asked, 65))
  if new and not in_their_windows(lines) then return { 'window', now } end
  reclaim(key)
  if not new and not (found and found[1] == 'open') then return answer('gone', lines, revision) end
  if found and not same(lines, found[5]) then return { 'lines', now } end
  local own = found and numbers(found[3]) or { 0, 0, 0, 0, 0, 0, 0 }
  local code, line, resource = judge(lines, limits, amounts, own)
  if code then return answer(code, lines, revision, line, resource) end
  if found then hold(lines, own, -1) end
  hold(lines, amounts, 1)
  local packed, on_expiry = string.sub(asked, 9, 64), string.sub(asked, 121)
  set(key, cmsgpack.pack({ 'open', found and found[2] or digest, packed, on_expiry, lines }))
  call('ZADD', holds, now + struct.unpack('<i8', asked) + GRACE, string.sub(key, #prefix + 3))
  return answer('held', lines, revision)
end

-- KEYS: holds, the hold, accounts. ARGV: digest; held, actual.
function trips.settle(digest, ended)
  local key, lines, revision, found = KEYS[2], accounts_from(3)
  if found and digest ~= '' and found[2] ~= '' and found[2] ~= digest then return { 'payload', now } end
  local actual, was = numbers(ended, 57), found and found[1] or 'unknown'
  if was == 'unknown' then
    if any(actual) and not any(numbers(ended)) and not in_their_windows(lines) then return { 'window', now } end
    charge(lines, actual)
  elseif was == 'open' then
    hold(found[5], numbers(found[3]), -1)
    charge(found[5], actual)
  elseif was == 'expired' then
    local paid = numbers(found[4])
    for i = 1, 7 do actual[i] = math.max(0, actual[i] - paid[i]) end
    charge(lines, actual)
  end
  if was ~= 'settled' then mark(key, 'settled', found and found[2] or digest) end
  return answer(was, lines, revision)
end

-- KEYS: holds, a hold that is not there, accounts.
function trips.read()
  local lines, revision = accounts_from(3)
  reclaim()
  return answer('seen', lines, revision)
end

-- The same without reclaiming.
function trips.look()
  local lines, revision = accounts_from(3)
  return answer('seen', lines, revision)
end

-- KEYS: holds. ARGV: ms to live, ids.
function trips.renew()
  for n = 4, #ARGV do call('ZADD', holds, 'XX', now + ARGV[3] + GRACE, ARGV[n]) end
  return { 'renewed', now }
end

-- KEYS: holds. ARGV: key, and the rules if they are not to be removed.
function trips.configure(key, rules)
  if rules then
    call('HSET', prefix .. 'rules', key, rules)
  else
    call('HDEL', prefix .. 'rules', key)
  end
  local began, changes = string.match(call('GET', prefix .. 'revision') or begin(), '^(%d+)%.(%d+)$')
  call('SET', prefix .. 'revision', string.format('%s.%d', began, changes + 1))
  return { 'configured', now }
end

-- KEYS: holds, a hold that is not there, accounts.
function trips.reset()
  for n = 3, #KEYS do
    local one = account(KEYS[n])
    if in_their_windows({ KEYS[n] }) then
      for i = 1, 7 do one[i] = 0 end
      if one.bucket then call('DEL', buckets_of(KEYS[n])) end
      one.changed = true
    end
  end
  return answer('reset', {}, 0)
end

-- KEYS: holds, the record of a run. ARGV: how long it lives, ms; if it is to be written, opened, state, changes.
function trips.run(lives, opened, state)
  local key, changes = KEYS[2], tonumber(ARGV[6])
  local row = call('GET', key)
  local found = row and cmsgpack.unpack(row)
  if found and now >= found[4] + lives then found = nil end
  if not found and changes == 0 then
    found = { opened, state, 0, now }
    call('SET', key, cmsgpack.pack(found), 'PX', lives)
  elseif found and changes == found[3] + 1 then
    found[2], found[3] = state, changes
    call('SET', key, cmsgpack.pack(found), 'KEEPTTL')
  end
  if not found then return { 'run', now } end
  return { 'run', now, unpack(found) }
end

return trips[ARGV[1]](ARGV[3], ARGV[4], ARGV[5])
