-- One call of the repository contract on one partition. The rules are those of `pyncette.lifecycle`; change them together.
--
-- KEYS, all of one slot:
--   index   sorted set of READY .. name, one entry a row, every score 0: so in the order of these strings, byte by byte
--   rows    hash, name -> a JSON array of the fields below
--   specs   hash, name -> the arguments: apart from the row, because they may be long and only a registration writes them
-- ARGV: the call's name, its arguments as a JSON array. The answer is JSON: for a driver, one long string is cheaper to read
-- than thousands of short ones.
--
-- An instant, and an epoch, is a count of microseconds since the year 1 in 19 digits. It stays a string, because Lua's numbers
-- are exact up to 2^53 only; and strings of digits, equally long, are in the order of the numbers they show.

local INDEX, ROWS, SPECS = KEYS[1], KEYS[2], KEYS[3]
local OCCURRENCE, EXECUTE_AFTER, READY, LEASE, LOCKED_UNTIL = 1, 2, 3, 4, 5
local EPOCH, REVISION, ATTEMPT, SCHEDULE, ERROR = 6, 7, 8, 9, 10
local NONE = ''  -- no lease, or not held; before any instant
local STATES = {paused = true, failed = true}  -- what READY says of a row that can't be claimed
local DIGITS, NINE = 19, 57
local FIRST, LAST = '0000000000000000000', '0315537897599999999'  -- the ends of the calendar
-- Numbers of 64 bits that can't be raised any more.
local LAST_EPOCH, LAST_REVISION = '9285507633654775807', '9223372036854775807'
local UNREADABLE = {}  -- stands for a row that makes no sense

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

-- Lua passes some 8,000 values at most: a longer command is cut. The replies are those of one that returns a list, or none.
local function command(name, key, values)
  local replies = {}
  for first = 1, #values, 4000 do
    local some = redis.call(name, key, unpack(values, first, math.min(first + 3999, #values)))
    for i = 1, type(some) == 'table' and #some or 0 do replies[first + i - 1] = some[i] end
  end
  return replies
end

local function is_instant(text)
  return #text == DIGITS and text <= LAST and not text:find('%D')
end

-- Raises an error, or returns false, if `text` is no row: `#` and `..` do the former for what is neither text nor number, and `>` for
-- numbers. Written for speed: most times are equal to others of the row, and `find` is called once.
-- Whether a text is UTF-8 is seen by the driver's side: here, it costs more than all the rest.
local function read(text)
  local row = cjson.decode(text)
  local at, after, ready, lease, locked_until, epoch, revision, attempt, schedule, error = unpack(row, 1, ERROR)
  local digits = at .. epoch .. revision
  if #at ~= DIGITS or at > LAST or #epoch ~= DIGITS or epoch >= LAST_EPOCH then return false end
  if after ~= at then
    if #after ~= DIGITS or after > LAST then return false end
    digits = digits .. after
  end
  if ready ~= at and not STATES[ready] then
    if #ready ~= DIGITS or ready > LAST then return false end
    digits = digits .. ready
  end
  if locked_until ~= NONE and (locked_until ~= ready or STATES[ready]) then
    if #locked_until ~= DIGITS or locked_until > LAST then return false end
    digits = digits .. locked_until
  end
  if revision ~= '0' and (#revision == 0 or ('0'):rep(DIGITS - #revision) .. revision >= LAST_REVISION) then return false end
  return attempt >= 0 and attempt < 1e14 and attempt % 1 == 0
    and type(lease) == 'string' and type(schedule) == 'string' and (error == nil or type(error) == 'string')
    and not digits:find('%D') and row
end

-- For each name the row, false if there is none, or UNREADABLE: what is damaged costs no other row anything.
local function fetch_rows(names)
  local rows = command('HMGET', ROWS, names)
  for i = 1, #names do
    if rows[i] then
      local understood, row = pcall(read, rows[i])
      rows[i] = understood and row or UNREADABLE
    end
  end
  return rows
end

local stale, entries, rows, specs, removed = {}, {}, {}, {}, {}

local function enter(name, row)
  entries[#entries + 1] = 0
  entries[#entries + 1] = row[READY] .. name
end

-- To be written: the row, and its entry unless that is there already, since the row `was` ready then too.
local function put(name, row, was)
  if was ~= row[READY] then
    if was then stale[#stale + 1] = was .. name end
    enter(name, row)
  end
  rows[#rows + 1] = name
  rows[#rows + 1] = cjson.encode(row)
end

local function remove(name, row)
  -- Of an unreadable row the entry is not known; the claim that meets it removes it.
  if row ~= UNREADABLE then stale[#stale + 1] = row[READY] .. name end
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

local function names_in(elements)
  local names = {}
  for i, element in ipairs(elements) do names[i] = element[1] end
  return names
end

-- Changes the rows that there are, and can be read; the answer is which there are.
local function each(names, change)
  local found = fetch_rows(names)
  for i, name in ipairs(names) do
    if found[i] and (found[i] ~= UNREADABLE or change == remove) then change(name, found[i], found[i][READY]) end
    found[i] = found[i] and true
  end
  write()
  return found
end

local call = {}

local function register(now, force, row, registration)
  local name, spec, schedule, occurrence, execute_after, keep_overdue = unpack(registration)
  specs[#specs + 1] = name
  specs[#specs + 1] = spec
  if not row or row == UNREADABLE then
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
    row[SCHEDULE], row[REVISION], row[ATTEMPT], row[ERROR] = schedule, plus_one(row[REVISION]), 0, nil
    set_ready(row, row[LOCKED_UNTIL])
    put(name, row, was)
  end
end

function call.register(now, force, registrations)
  local found = fetch_rows(names_in(registrations))
  for i, registration in ipairs(registrations) do
    -- An unreadable row stays: it may be that of a later release, which can read it.
    if found[i] ~= UNREADABLE or force then register(now, force, found[i], registration) end
  end
  write()
end

-- Entries of another score than 0 are out of order: a row among them would be found too early, or never.
local function put_in_order()
  for _, range in ipairs({{'-inf', '(0'}, {'(0', '+inf'}}) do
    for _, entry in ipairs(redis.call('ZRANGEBYSCORE', INDEX, range[1], range[2], 'LIMIT', 0, 1000)) do
      redis.call('ZADD', INDEX, 0, entry)
    end
  end
end

local function due_entries(now, limit)
  return redis.call('ZRANGEBYLEX', INDEX, '-', '[' .. now .. '\255', 'LIMIT', 0, limit)  -- no name has this byte
end

-- The entries of those of the `names` that can be claimed, in order. Of an unreadable row only the index says when it is due.
local function entries_of(names, now, missing)
  local waiting, unreadable = {}, {}
  for i, row in ipairs(fetch_rows(names)) do
    if row == UNREADABLE then
      unreadable[names[i]] = true
    elseif not row then
      missing[#missing + 1] = names[i]
    elseif not STATES[row[READY]] then
      waiting[#waiting + 1] = row[READY] .. names[i]
    end
  end
  if next(unreadable) then
    for _, entry in ipairs(due_entries(now, 1000)) do
      if unreadable[entry:sub(DIGITS + 1)] then waiting[#waiting + 1] = entry end
    end
  end
  table.sort(waiting)
  return waiting
end

function call.claim(now, locked_until, lease, limit, names)
  local by_name = names ~= cjson.null
  local claims, missing, unreadable, next_ready_at = {}, {}, {}, cjson.null
  put_in_order()
  -- Again if the index was so wrong that nothing was found; a few times, so that the server is not held up for long.
  for _ = 1, 10 do
    local due, since, taken, misfiled, wrong = {}, {}, {}, {}, false
    next_ready_at = cjson.null
    for i, entry in ipairs(by_name and entries_of(names, now, missing) or redis.call('ZRANGE', INDEX, 0, limit)) do
      if entry:byte() and entry:byte() > NINE then break end  -- a state, as in all that follow
      local ready_at = entry:sub(1, DIGITS)
      if i > limit or ready_at > now then
        if is_instant(ready_at) then
          next_ready_at = ready_at
        else
          wrong, stale[#stale + 1] = true, entry
        end
        break
      end
      due[i], since[i] = entry:sub(DIGITS + 1), ready_at
    end
    local found, texts = fetch_rows(due), command('HMGET', SPECS, due)
    for i, name in ipairs(due) do
      local row, spec, was = found[i], texts[i], since[i]
      if row and spec and row[READY] == was then
        row[READY], row[LEASE], row[LOCKED_UNTIL] = locked_until, lease, locked_until
        row[EPOCH], row[ATTEMPT] = raised(row[EPOCH], now), row[ATTEMPT] + 1
        put(name, row, was)
        taken[name] = true
        claims[#claims + 1] = {
          name, spec, row[SCHEDULE], row[OCCURRENCE], row[EXECUTE_AFTER], row[EPOCH], row[ATTEMPT], row[REVISION],
        }
      elseif row == UNREADABLE or row and row[READY] == was then
        if row == UNREADABLE then
          stale[#stale + 1] = was .. name
          if not taken[name] then enter(name, {[READY] = locked_until}) end
        else
          row[READY] = locked_until
          put(name, row, was)
        end
        if not taken[name] then unreadable[#unreadable + 1] = name end
        taken[name] = true
      else
        wrong = true
        stale[#stale + 1] = was .. name
        if row then misfiled[name] = row end
      end
    end
    for name, row in pairs(misfiled) do
      if not taken[name] then enter(name, row) end
    end
    write()
    if by_name or #claims > 0 or #unreadable > 0 or not wrong then break end
  end
  return {claims, next_ready_at, missing, call.get(unreadable)}
end

function call.settle(now, settlements)
  local outcomes = {}
  local found = fetch_rows(names_in(settlements))
  for i, settlement in ipairs(settlements) do
    local name, lease, revision, kind, value, other = unpack(settlement)
    local row = found[i]
    if not row then
      outcomes[i] = 'gone'
    elseif row[LEASE] ~= lease then  -- nor has an unreadable row any
      outcomes[i] = 'lost'
    elseif row[LOCKED_UNTIL] == NONE then
      outcomes[i] = kind == 'extend' and 'lost' or row[REVISION] == revision and 'already' or 'superseded'
    elseif kind == 'remove' and row[REVISION] == revision then
      outcomes[i] = 'applied'
      remove(name, row)
    else
      local was = row[READY]
      outcomes[i] = (kind == 'extend' or row[REVISION] == revision) and 'applied' or 'superseded'
      row[LOCKED_UNTIL] = kind == 'extend' and later(row[LOCKED_UNTIL], value) or NONE
      if kind == 'extend' then
        set_ready(row, row[LOCKED_UNTIL])
      elseif outcomes[i] == 'superseded' then
        set_ready(row, now)
      elseif kind == 'release' then
        if not other then row[ATTEMPT] = row[ATTEMPT] - 1 end
        set_ready(row, value)
      elseif kind == 'fail' then
        row[READY], row[ERROR] = 'failed', value
      else
        row[ATTEMPT], row[OCCURRENCE], row[EXECUTE_AFTER] = 0, value, other
        set_ready(row, now)
      end
      put(name, row, was)
    end
  end
  write()
  return outcomes
end

function call.unregister(names)
  return each(names, remove)
end

function call.pause(names)
  return each(names, function(name, row, was)
    revive(row)
    row[READY] = 'paused'
    put(name, row, was)
  end)
end

function call.resume(names)
  return each(names, function(name, row, was)
    if not STATES[was] then return end
    revive(row)
    row[READY] = NONE
    set_ready(row, row[LOCKED_UNTIL])
    put(name, row, was)
  end)
end

-- Without a row that can be read, or without its arguments, there is false in the place of them.
function call.get(names)
  local found, texts = fetch_rows(names), command('HMGET', SPECS, names)
  for i, name in ipairs(names) do found[i] = found[i] and {name, texts[i], found[i] ~= UNREADABLE and found[i]} end
  return found
end

-- SCAN's guarantee: what is there all the time is found. A cursor means nothing to another server, nor after a restart: the
-- listing begins anew then.
function call.list(limit, token)
  local info = redis.pcall('INFO', 'server')
  local run = type(info) == 'string' and info:match('run_id:(%x+)') or '-'
  local cursor = token ~= cjson.null and token:match('^' .. run .. ':(%d+)$') or '0'
  local following, found = unpack(redis.call('HSCAN', ROWS, cursor, 'COUNT', limit))
  local names, seen = {}, {}
  for i = 1, #found, 2 do
    if not seen[found[i]] then names[#names + 1], seen[found[i]] = found[i], true end
  end
  return {call.get(names), following ~= '0' and run .. ':' .. following or cjson.null}
end

function call.stats(now)
  local oldest = due_entries(now, 1)[1]
  local since, count = oldest and oldest:sub(1, DIGITS), redis.call('HLEN', ROWS)
  return {
    count,
    math.min(count, redis.call('ZLEXCOUNT', INDEX, '-', '[' .. now .. '\255')),
    since and (is_instant(since) and since or FIRST) or cjson.null,
    redis.call('ZLEXCOUNT', INDEX, '[failed', '(failee'),
  }
end

function call.time()
  return redis.call('TIME')
end

return cjson.encode(call[ARGV[1]](unpack(cjson.decode(ARGV[2]))) or cjson.null)
