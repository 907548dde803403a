-- One call of the repository contract on one partition. It states the rules of `pyncette.lifecycle`; change them together.
--
-- KEYS, all of one slot:
--   index   sorted set of READY .. name, one entry a row, every score 0: so in the order of these strings, byte by byte
--   rows    hash, name -> a JSON array of the fields below
--   specs   hash, name -> the arguments: apart from the row, because they may be long and only a registration writes them
-- ARGV: the call's name, its arguments as a JSON array. The answer is JSON.
--
-- An instant, and an epoch, is a count of microseconds in 19 digits since the year 1, so never negative: it stays a string,
-- because Lua's numbers are exact up to 2^53 only, and strings of equal length are in the order of the numbers they show.

local INDEX, ROWS, SPECS = KEYS[1], KEYS[2], KEYS[3]
local OCCURRENCE, EXECUTE_AFTER, READY, LEASE, LOCKED_UNTIL = 1, 2, 3, 4, 5
local EPOCH, REVISION, ATTEMPT, SCHEDULE, ERROR = 6, 7, 8, 9, 10
local NONE = ''  -- no lease, not held; before any instant
local STATES = {paused = true, failed = true}  -- what READY says of a row that can't be claimed

local function later(one, other)
  return one < other and other or one
end

local function plus_one(number)
  local head, digit, nines = number:match('^(%d-)([0-8]?)(9*)$')
  return head .. (digit == '' and '1' or digit + 1) .. ('0'):rep(#nines)
end

local function raised(epoch, now)
  return epoch < now and now or plus_one(epoch)
end

local function set_ready(row, not_before)
  if not STATES[row[READY]] then row[READY] = later(row[EXECUTE_AFTER], not_before) end
end

local function revive(row)
  if row[READY] == 'failed' then row[READY], row[ATTEMPT], row[ERROR] = NONE, 0, nil end
end

-- A function takes some 8,000 values in Lua: a longer command is cut.
local function command(name, key, values, reply)
  for first = 1, #values, 4000 do
    local answers = redis.call(name, key, unpack(values, first, math.min(first + 3999, #values)))
    if reply then for i, answer in ipairs(answers) do reply[first + i - 1] = answer end end
  end
  return reply
end

local function column(records, field)
  local values = {}
  for i, record in ipairs(records) do values[i] = record[field] end
  return values
end

local function fetch(key, names)
  return command('HMGET', key, names, {})
end

-- What is damaged counts as absent: it costs no other row anything, and the next registration mends it.
local function decode(text)
  local understood, row = pcall(cjson.decode, text)
  return understood and type(row) == 'table' and row[SCHEDULE] and row or false
end

local function fetch_rows(names)
  local rows = fetch(ROWS, names)
  for i = 1, #names do rows[i] = decode(rows[i]) end
  return rows
end

local stale, entries, rows, specs, removed = {}, {}, {}, {}, {}

local function enter(name, row)
  entries[#entries + 1] = 0
  entries[#entries + 1] = row[READY] .. name
end

-- Writes the row, which is in the index under `was`.
local function put(name, row, was)
  if was ~= row[READY] then
    if was then stale[#stale + 1] = was .. name end
    enter(name, row)
  end
  rows[#rows + 1] = name
  rows[#rows + 1] = cjson.encode(row)
end

local function remove(name, row)
  if row then stale[#stale + 1] = row[READY] .. name end
  removed[#removed + 1] = name
end

local function write()
  command('ZREM', INDEX, stale)
  command('ZADD', INDEX, entries)
  command('HSET', SPECS, specs)
  command('HSET', ROWS, rows)
  command('HDEL', SPECS, removed)
  command('HDEL', ROWS, removed)
  stale, entries, rows, specs, removed = {}, {}, {}, {}, {}
end

local call = {}

function call.register(now, force, registrations)
  local found = fetch_rows(column(registrations, 1))
  for i, registration in ipairs(registrations) do
    local name, spec, schedule, occurrence, execute_after, keep_overdue = unpack(registration)
    local row = found[i]
    specs[#specs + 1] = name
    specs[#specs + 1] = spec
    if not row then
      put(name, {occurrence, execute_after, execute_after, NONE, NONE, now, '0', 0, schedule})
    elseif row[SCHEDULE] == schedule and not force then
      enter(name, row)  -- is there already, unless the index was damaged
    else
      local was = row[READY]
      if not (keep_overdue and row[EXECUTE_AFTER] <= now) then
        row[OCCURRENCE], row[EXECUTE_AFTER] = occurrence, execute_after
      end
      if force then row[LEASE], row[LOCKED_UNTIL], row[EPOCH] = NONE, NONE, raised(row[EPOCH], now) end
      revive(row)
      row[SCHEDULE], row[REVISION], row[ATTEMPT] = schedule, plus_one(row[REVISION]), 0
      set_ready(row, row[LOCKED_UNTIL])
      put(name, row, was)
    end
  end
  write()
end

function call.unregister(names)
  local found = fetch_rows(names)
  for i, name in ipairs(names) do
    remove(name, found[i])
    found[i] = not not found[i]
  end
  write()
  return found
end

function call.claim(now, locked_until, lease, limit, names)
  local by_name = names ~= cjson.null
  local claims, missing, next_ready_at = {}, {}, nil

  -- What is due: the names, under what READY, and the rows; in the order in which they are to be claimed.
  local function due_of_index()
    local due, since = {}, {}
    next_ready_at = nil
    for i, entry in ipairs(redis.call('ZRANGE', INDEX, 0, limit)) do
      local ready_at = entry:sub(1, #now)
      if entry:byte() > 57 then break end  -- no digit: a state, as all that follow
      if i > limit or ready_at > now then next_ready_at = ready_at break end
      due[i], since[i] = entry:sub(#now + 1), ready_at
    end
    return due, since, fetch_rows(due)
  end

  local function due_of_names()
    local waiting, due, since, rows = {}, {}, {}, {}
    for i, row in ipairs(fetch_rows(names)) do
      if not row then
        missing[#missing + 1] = names[i]
      elseif not STATES[row[READY]] then
        waiting[#waiting + 1] = {names[i], row}
      end
    end
    table.sort(waiting, function(one, other) return one[2][READY] < other[2][READY] end)
    for i, each in ipairs(waiting) do
      local ready_at = each[2][READY]
      if i > limit or ready_at > now then next_ready_at = ready_at break end
      due[i], since[i], rows[i] = each[1], ready_at, each[2]
    end
    return due, since, rows
  end

  -- Again if the index was so wrong that nothing was claimed; a few times, so that the server is not held up for long.
  for _ = 1, 10 do
    local wrong = false
    local due, since, found = (by_name and due_of_names or due_of_index)()
    local texts = fetch(SPECS, due)
    for i, name in ipairs(due) do
      local row, spec, was = found[i], texts[i], since[i]
      if row and spec and row[READY] == was then
        local epoch, attempt = raised(row[EPOCH], now), row[ATTEMPT] + 1
        row[READY], row[LEASE], row[LOCKED_UNTIL], row[EPOCH], row[ATTEMPT] = locked_until, lease, locked_until, epoch, attempt
        put(name, row, was)
        claims[#claims + 1] = {name, spec, row[SCHEDULE], row[OCCURRENCE], row[EXECUTE_AFTER], epoch, attempt, row[REVISION]}
      else
        wrong = true
        stale[#stale + 1] = was .. name
        if row and spec then
          enter(name, row)
        elseif by_name then
          missing[#missing + 1] = name
        end
      end
    end
    write()
    if by_name or #claims > 0 or not wrong then break end
  end
  return {claims, next_ready_at or cjson.null, missing}
end

function call.settle(now, settlements)
  local outcomes = {}
  local found = fetch_rows(column(settlements, 1))
  for i, settlement in ipairs(settlements) do
    local name, lease, revision, kind, value, other = unpack(settlement)
    local row = found[i]
    if not row then
      outcomes[i] = 'gone'
    elseif row[LEASE] ~= lease then
      outcomes[i] = 'lost'
    elseif row[LOCKED_UNTIL] == NONE then
      outcomes[i] = kind == 'extend' and 'lost' or row[REVISION] == revision and 'already' or 'superseded'
    else
      local was = row[READY]
      outcomes[i] = 'applied'
      if kind == 'extend' then
        row[LOCKED_UNTIL] = later(row[LOCKED_UNTIL], value)
        set_ready(row, row[LOCKED_UNTIL])
      else
        row[LOCKED_UNTIL] = NONE
        if row[REVISION] ~= revision then
          outcomes[i] = 'superseded'
          set_ready(row, now)
        elseif kind == 'release' then
          if not other then row[ATTEMPT] = row[ATTEMPT] - 1 end
          set_ready(row, value)
        elseif kind == 'fail' then
          row[READY], row[ERROR] = 'failed', value
        elseif kind == 'commit' then
          row[ATTEMPT], row[OCCURRENCE], row[EXECUTE_AFTER] = 0, value, other
          set_ready(row, now)
        end
      end
      if kind == 'remove' and outcomes[i] == 'applied' then remove(name, row) else put(name, row, was) end
    end
  end
  write()
  return outcomes
end

function call.pause(names)
  local found = fetch_rows(names)
  for i, name in ipairs(names) do
    local row = found[i]
    if row then
      local was = row[READY]
      revive(row)
      row[READY] = 'paused'
      put(name, row, was)
    end
    found[i] = not not row
  end
  write()
  return found
end

function call.resume(names)
  local found = fetch_rows(names)
  for i, name in ipairs(names) do
    local row = found[i]
    if row and STATES[row[READY]] then
      local was = row[READY]
      revive(row)
      row[READY] = NONE
      set_ready(row, row[LOCKED_UNTIL])
      put(name, row, was)
    end
    found[i] = not not row
  end
  write()
  return found
end

function call.get(names)
  local found, texts = fetch_rows(names), fetch(SPECS, names)
  for i = 1, #names do found[i] = found[i] and texts[i] and {names[i], texts[i], found[i]} end
  return found
end

-- SCAN's guarantee: what is there all the time is found. A cursor means nothing after a restart or failover: begins anew then.
function call.list(limit, token)
  local info = redis.pcall('INFO', 'server')
  local run = type(info) == 'string' and info:match('run_id:(%x+)') or '-'
  local cursor = token ~= cjson.null and token:match('^' .. run .. ':(%d+)$') or '0'
  local scanned = redis.call('HSCAN', ROWS, cursor, 'COUNT', limit)
  local names, seen = {}, {}
  for i = 1, #scanned[2], 2 do
    local name = scanned[2][i]
    if not seen[name] then names[#names + 1], seen[name] = name, true end
  end
  return {call.get(names), scanned[1] ~= '0' and run .. ':' .. scanned[1] or cjson.null}
end

function call.stats(now)
  local oldest = redis.call('ZRANGEBYLEX', INDEX, '-', '[' .. now .. '\255', 'LIMIT', 0, 1)[1]
  return {
    redis.call('HLEN', ROWS),
    redis.call('ZLEXCOUNT', INDEX, '-', '[' .. now .. '\255'),
    oldest and oldest:sub(1, #now) or cjson.null,
    redis.call('ZLEXCOUNT', INDEX, '[failed', '(failee'),
  }
end

function call.time()
  return redis.call('TIME')
end

return cjson.encode(call[ARGV[1]](unpack(cjson.decode(ARGV[2]))) or cjson.null)
