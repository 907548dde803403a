-- One call of the repository contract on one partition. The rules are those of `pyncette.lifecycle`; change them together.
--
-- KEYS, all of one slot:
--   index       sorted set of READY .. name, one entry a row, every score 0: so in the order of these strings, byte by byte
--   rows        hash, name -> the fields below, one after another
--   specs       hash, name -> the arguments: apart from the row, because they may be long and only a registration writes them
--   partitions  set of the partitions of this slot that have rows
-- ARGV: the call's name, the partition, and the call's arguments as a JSON array. Lists go flat, one for each field, and come back
-- as one long string: neither Lua nor the driver is fast at thousands of small things.
--
-- A row is a text: each field of the same width in all rows, then those of any length, of which no one has the byte 255 (it is no
-- UTF-8). So a claim and a settlement cut and join, and need not take a row apart.
--
--   1 epoch   20 occurrence   39 execute_after   58 attempt   77 READY   96 revision   115 lease   147 locked_until
--   166 schedule, 255, memo, and in a failed row 255, error
--
-- READY is ready_at or else the state. Numbers have 19 digits, and so have instants and epochs, microseconds since the year 1. They
-- stay strings, because Lua's numbers are exact up to 2^53 only; and such strings are in the order of the numbers they show.

local INDEX, ROWS, SPECS, PARTITIONS = unpack(KEYS)
local CALL, PARTITION = ARGV[1], ARGV[2]
local byte, find, sub, concat = string.byte, string.find, string.sub, table.concat
local BLANK, ZERO, ONE = (' '):rep(19), ('0'):rep(19), ('0'):rep(18) .. '1'
local NO_LEASE = (' '):rep(32)
local PAUSED, FAILED = ('%-19s'):format('paused'), ('%-19s'):format('failed')
local STATES = {[PAUSED] = true, [FAILED] = true}  -- what READY says of a row that can't be claimed
local SPACE, NINE, MARK = 32, 57, '\255'
local LAST = '0315537897599999999'  -- the end of the calendar
-- Numbers that can't be raised any more: of 64 bits, or that Lua can't count.
local LAST_EPOCH, LAST_REVISION, LAST_ATTEMPT = '9285507633654775807', '9223372036854775807', '0000100000000000000'
local UNREADABLE = {}  -- stands for a row that makes no sense

local function later(one, other)
  return one < other and other or one
end

local function plus_one(number)
  local head, digit, nines = number:match('^(%d-)([0-8])(9*)$')
  return head .. digit + 1 .. ('0'):rep(#nines)
end

local function raised(epoch, now)
  return epoch < now and now or plus_one(epoch)
end

-- Lua passes some 8,000 values at most: a longer command is cut. The replies are those of one that returns a list, or none.
local function command(name, key, values)
  local replies = {}
  for first = 1, #values, 4000 do
    local some = redis.call(name, key, unpack(values, first, math.min(first + 3999, #values)))
    if first == 1 and type(some) == 'table' then
      replies = some
    else
      for i = 1, type(some) == 'table' and #some or 0 do replies[first + i - 1] = some[i] end
    end
  end
  return replies
end

-- Whether a text is a number of 19 digits. Rows of one call have most of them in common.
local known = {[ZERO] = true, [ONE] = true}
local function is_number(text)
  local is = known[text]
  if is == nil then
    is = #text == 19 and not find(text, '%D')
    known[text] = is
  end
  return is
end

local function is_instant(text)
  return is_number(text) and text <= LAST
end

-- Whether `text` is a row. Whether its texts are UTF-8 is seen by the driver's side: here, it costs more than all the rest.
local function makes_sense(text)
  local epoch, attempt, revision = sub(text, 1, 19), sub(text, 58, 76), sub(text, 96, 114)
  local ready, locked_until = sub(text, 77, 95), sub(text, 147, 165)
  local memo = find(text, MARK, 166, true)
  if not memo then return false end
  local error = find(text, MARK, memo + 1, true)
  return is_number(epoch) and epoch < LAST_EPOCH and is_number(revision) and revision < LAST_REVISION
    and is_number(attempt) and attempt < LAST_ATTEMPT and is_instant(sub(text, 20, 38)) and is_instant(sub(text, 39, 57))
    and (is_instant(ready) or STATES[ready] or false) and (locked_until == BLANK or is_instant(locked_until))
    and (not error or ready == FAILED and not find(text, MARK, error + 1, true))
end

-- Whether `text` is UTF-8. Slow, and for few texts only.
local function is_utf8(text)
  for sequence in ('BC DEC FCC GHC IMCC JCCC KLCC'):gmatch('%u+') do
    local pattern = sequence:gsub('%u', {
      B = '[\194-\223]', C = '[\128-\191]', D = '\224', E = '[\160-\191]', F = '[\225-\236\238\239]', G = '\237', H = '[\128-\159]',
      I = '\240', J = '[\241-\243]', K = '\244', L = '[\128-\143]', M = '[\144-\191]',
    })
    text = text:gsub(pattern, ' ')
  end
  return not find(text, '[\128-\255]')
end

-- The fields of a row that makes sense.
local function parse(text)
  local schedule, memo, error = text:match('^([^\255]*)\255([^\255]*)\255?(.*)$', 166)
  return {
    epoch = sub(text, 1, 19), occurrence = sub(text, 20, 38), execute_after = sub(text, 39, 57), attempt = sub(text, 58, 76),
    ready = sub(text, 77, 95), revision = sub(text, 96, 114), lease = sub(text, 115, 146), locked_until = sub(text, 147, 165),
    schedule = schedule, memo = memo, error = error,
  }
end

local function text_of(row)
  return row.epoch .. row.occurrence .. row.execute_after .. row.attempt .. row.ready .. row.revision .. row.lease
    .. row.locked_until .. row.schedule .. MARK .. row.memo .. (row.ready == FAILED and MARK .. row.error or '')
end

-- For each name the row, false if there is none, or UNREADABLE: what is damaged costs no other row anything.
local function fetch_rows(names)
  local rows = command('HMGET', ROWS, names)
  for i = 1, #names do
    if rows[i] then rows[i] = makes_sense(rows[i]) and parse(rows[i]) or UNREADABLE end
  end
  return rows
end

local stale, entries, rows, specs, removed = {}, {}, {}, {}, {}

local function enter(name, ready)
  local n = #entries
  entries[n + 1], entries[n + 2] = '0', ready .. name
end

-- To be written: the row, and its entry unless that is there already, since the row `was` ready then too.
local function put(name, text, was, ready)
  if was ~= ready then
    if was then stale[#stale + 1] = was .. name end
    enter(name, ready)
  end
  local n = #rows
  rows[n + 1], rows[n + 2] = name, text
end

local function put_row(name, row, was)
  put(name, text_of(row), was, row.ready)
end

local function remove(name, was)
  if was then stale[#stale + 1] = was .. name end
  removed[#removed + 1] = name
end

local function write()
  command('ZREM', INDEX, stale)
  command('ZADD', INDEX, entries)
  command('HSET', SPECS, specs)
  command('HSET', ROWS, rows)
  command('HDEL', SPECS, removed)
  command('HDEL', ROWS, removed)
  if #removed > 0 and redis.call('EXISTS', ROWS) == 0 then redis.call('SREM', PARTITIONS, PARTITION) end
  stale, entries, rows, specs, removed = {}, {}, {}, {}, {}
end

local function set_ready(row, not_before)
  if not STATES[row.ready] then row.ready = later(row.execute_after, not_before) end
end

local function revive(row)
  if row.ready == FAILED then row.ready, row.attempt = BLANK, ZERO end
end

-- Changes the rows that there are, and can be read; the answer is which there are.
local function each(names, change)
  local found = fetch_rows(names)
  for i, name in ipairs(names) do
    if found[i] and found[i] ~= UNREADABLE then change(found[i], i, name) end
    found[i] = found[i] and true
  end
  write()
  return found
end

local call = {}

function call.register(now, force, names, texts, schedules, occurrences, afters, keep_overdue)
  local found = fetch_rows(names)
  for i, name in ipairs(names) do
    local row, schedule, occurrence, execute_after = found[i], schedules[i], occurrences[i], afters[i]
    -- An unreadable row stays: it may be that of a later release, which can read it.
    if row ~= UNREADABLE or force then specs[#specs + 1], specs[#specs + 2] = name, texts[i] end
    if not row or row == UNREADABLE and force then
      local times = now .. occurrence .. execute_after .. ZERO .. execute_after
      put(name, times .. ZERO .. NO_LEASE .. BLANK .. schedule .. MARK, nil, execute_after)
    elseif row ~= UNREADABLE and row.schedule == schedule and not force then
      enter(name, row.ready)  -- is there already, unless the index was damaged
    elseif row ~= UNREADABLE then
      local was = row.ready
      if not (keep_overdue[i] and row.execute_after <= now) then
        row.occurrence, row.execute_after = occurrence, execute_after
      end
      if force then
        row.lease, row.locked_until, row.epoch = NO_LEASE, BLANK, raised(row.epoch, now)
        if not is_utf8(row.memo) then row.memo = '' end
      end
      revive(row)
      row.schedule, row.revision, row.attempt = schedule, plus_one(row.revision), ZERO
      set_ready(row, row.locked_until)
      put_row(name, row, was)
    end
  end
  redis.call('SADD', PARTITIONS, PARTITION)
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
  return redis.call('ZRANGEBYLEX', INDEX, '-', '[' .. now .. MARK, 'LIMIT', 0, limit)  -- no name has this byte
end

-- The entries of those of the `names` that can be claimed, in order. Of an unreadable row only the index says when it is due.
local function entries_of(names, now, missing)
  local waiting, unreadable = {}, {}
  for i, row in ipairs(fetch_rows(names)) do
    if row == UNREADABLE then
      unreadable[names[i]] = true
    elseif not row then
      missing[#missing + 1] = names[i]
    elseif not STATES[row.ready] then
      waiting[#waiting + 1] = row.ready .. names[i]
    end
  end
  if next(unreadable) then
    for _, entry in ipairs(due_entries(now, 1000)) do
      if unreadable[sub(entry, 20)] then waiting[#waiting + 1] = entry end
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
    local due, since, met, taken, misfiled, wrong = {}, {}, {}, {}, {}, false
    next_ready_at = cjson.null
    for i, entry in ipairs(by_name and entries_of(names, now, missing) or redis.call('ZRANGE', INDEX, 0, limit)) do
      if entry ~= '' and byte(entry) > NINE then break end  -- a state, as in all that follow
      local ready_at = sub(entry, 1, 19)
      if i > limit or ready_at > now then
        if is_instant(ready_at) then
          next_ready_at = ready_at
        else
          wrong, stale[#stale + 1] = true, entry
        end
        break
      end
      met[i], due[i], since[i] = entry, sub(entry, 20), ready_at
    end
    local found, texts = command('HMGET', ROWS, due), command('HMGET', SPECS, due)
    -- All that are due go, and what is to stay comes back. Without names, they are the first of the index.
    if by_name then
      command('ZREM', INDEX, met)
    elseif #met > 0 then
      redis.call('ZREMRANGEBYRANK', INDEX, 0, #met - 1)
    end
    for i, name in ipairs(due) do
      local row, spec, was = found[i], texts[i], since[i]
      local sound = row and makes_sense(row)
      if row and sound and sub(row, 77, 95) ~= was or not row then
        wrong = true
        if row then misfiled[name] = sub(row, 77, 95) end
      elseif sound and spec and not find(spec, MARK, 1, true) and not find(name, MARK, 1, true) then
        local attempt = sub(row, 58, 76)
        row = raised(sub(row, 1, 19), now) .. sub(row, 20, 57) .. (attempt == ZERO and ONE or plus_one(attempt)) .. locked_until
          .. sub(row, 96, 114) .. lease .. locked_until .. sub(row, 166)
        put(name, row, nil, locked_until)
        taken[name] = true
        local n = #claims
        claims[n + 1], claims[n + 2], claims[n + 3] = row, name, spec
      else
        if sound then
          put(name, sub(row, 1, 76) .. locked_until .. sub(row, 96), nil, locked_until)
        elseif not taken[name] then
          enter(name, locked_until)
        end
        if not taken[name] then unreadable[#unreadable + 1] = name end
        taken[name] = true
      end
    end
    for name, ready in pairs(misfiled) do
      if not taken[name] then enter(name, ready) end
    end
    write()
    if by_name or #claims > 0 or #unreadable > 0 or not wrong then break end
  end
  return {cjson.encode({next_ready_at, missing, call.get(unreadable)}), concat(claims, MARK)}
end

-- What `lifecycle.expected` says of each, from occurrence to lease, is written where a row is as its claim has left it: scheduled,
-- held, of the same revision and lease. The answer is a digit for each, 0 where it is not. Without the times, the row is removed.
function call.settle_expected(names, expected, memos)
  local written = {}
  for i, row in ipairs(command('HMGET', ROWS, names)) do
    local new, memo = expected[i], memos[i] ~= cjson.null and memos[i]
    local removes = #new < 96
    local same = row and sub(row, 96, 146) == sub(new, removes and 1 or 77)
      and byte(row, 147) ~= SPACE and #row > 165 and byte(row, 77) <= NINE
    local mark = same and memo and find(row, MARK, 166, true)
    written[i] = same and (not memo or removes or mark) and '1' or '0'
    if written[i] == '1' then
      local was = sub(row, 77, 95)
      if removes then
        remove(names[i], was)
      else
        local rest = memo and sub(row, 166, mark) .. memo or sub(row, 166)
        put(names[i], sub(row, 1, 19) .. new .. BLANK .. rest, was, sub(new, 58, 76))
      end
    end
  end
  write()
  return concat(written)
end

function call.settle(now, settlements)
  local outcomes, names = {}, {}
  for i, settlement in ipairs(settlements) do names[i] = settlement[1] end
  local found = fetch_rows(names)
  for i, settlement in ipairs(settlements) do
    local name, lease, revision, kind, memo, value, other = unpack(settlement)
    local row = found[i]
    if not row then
      outcomes[i] = 'gone'
    elseif row.lease ~= lease then  -- nor has an unreadable row any
      outcomes[i] = 'lost'
    elseif row.locked_until == BLANK then
      outcomes[i] = kind == 'extend' and 'lost' or row.revision == revision and 'already' or 'superseded'
    elseif kind == 'remove' and row.revision == revision then
      outcomes[i] = 'applied'
      remove(name, row.ready)
    else
      local was = row.ready
      outcomes[i] = (kind == 'extend' or row.revision == revision) and 'applied' or 'superseded'
      row.locked_until = kind == 'extend' and later(row.locked_until, value) or BLANK
      if memo ~= cjson.null and row.ready ~= PAUSED then row.memo = memo end  -- that of a paused row is the note of its pause
      if kind == 'extend' then
        set_ready(row, row.locked_until)
      elseif outcomes[i] == 'superseded' then
        set_ready(row, now)
      elseif kind == 'release' then
        if not other then row.attempt = ('%019d'):format(row.attempt - 1) end
        set_ready(row, value)
      elseif kind == 'fail' then
        row.ready, row.error = FAILED, value
      else
        row.attempt, row.occurrence, row.execute_after = ZERO, value, other
        set_ready(row, now)
      end
      put_row(name, row, was)
    end
  end
  write()
  return outcomes
end

-- Also such as can't be read. Of these the entry is not known; the claim that meets it removes it.
function call.unregister(names)
  local found = fetch_rows(names)
  for i, name in ipairs(names) do
    if found[i] then remove(name, found[i].ready) end
    found[i] = found[i] and true
  end
  write()
  return found
end

function call.pause(names, memos)
  return each(names, function(row, i, name)
    local was = row.ready
    revive(row)
    row.ready, row.memo = PAUSED, memos[i] ~= cjson.null and memos[i] or row.memo
    put_row(name, row, was)
  end)
end

function call.resume(names, memos)
  return each(names, function(row, i, name)
    local was = row.ready
    if memos[i] ~= cjson.null then row.memo = memos[i] elseif not STATES[was] then return end
    if STATES[was] then
      revive(row)
      row.ready = BLANK
      set_ready(row, row.locked_until)
    end
    put_row(name, row, was)
  end)
end

-- Without a row that can be read, or without its arguments, there is false in the place of them.
function call.get(names)
  local found, texts = command('HMGET', ROWS, names), command('HMGET', SPECS, names)
  for i, name in ipairs(names) do found[i] = found[i] and {name, texts[i], makes_sense(found[i]) and found[i]} end
  return found
end

-- SCAN's guarantee: what is there all the time is found. It may bring more than was asked for, which the next call is given back.
-- A cursor means nothing to another server, nor after a restart: the listing begins anew then.
function call.list(limit, token)
  local info = redis.pcall('INFO', 'server')
  local run = type(info) == 'string' and info:match('run_id:(%x+)') or '-'
  local names, left, cursor, seen = {}, {}, '0', {}
  if token ~= cjson.null and token[1] == run then names, cursor = token[3], token[2] end
  for _, name in ipairs(names) do seen[name] = true end
  if #names < limit and cursor then
    local following, found = unpack(redis.call('HSCAN', ROWS, cursor, 'COUNT', limit - #names))
    for i = 1, #found, 2 do
      if not seen[found[i]] then names[#names + 1], seen[found[i]] = found[i], true end
    end
    cursor = following ~= '0' and following
  end
  for i = limit + 1, #names do names[i], left[i - limit] = nil, names[i] end
  return {call.get(names), run, cursor, left}
end

function call.stats(now)
  local oldest = due_entries(now, 1)[1]
  local since, count = oldest and sub(oldest, 1, 19), redis.call('HLEN', ROWS)
  return {
    count,
    math.min(count, redis.call('ZLEXCOUNT', INDEX, '-', '[' .. now .. MARK)),
    since and (is_instant(since) and since or ZERO) or cjson.null,
    redis.call('ZLEXCOUNT', INDEX, '[failed', '(failee'),
  }
end

function call.time()
  return redis.call('TIME')
end

local answer = call[CALL](unpack(cjson.decode(ARGV[3])))
return CALL == 'claim' and answer or cjson.encode(answer or cjson.null)
