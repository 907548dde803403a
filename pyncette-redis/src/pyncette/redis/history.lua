-- One call on the history of one partition.
--
-- KEYS, all of one slot:
--   index       sorted set of AT .. id, one entry a record: so in the order of time
--   names       sorted set of name, 255, AT, id
--   expiries    sorted set of EXPIRES, AT, id
--   entries     hash, AT .. id -> EXPIRES, name, 255, text
--   partitions  set of the partitions of this slot that have a history
-- ARGV: the call's name, the partition, and the call's arguments as a JSON array.
--
-- All scores are 0, so that the sets are in the order of their strings, byte by byte. AT and EXPIRES are microseconds since the
-- year 1, in 19 digits; the byte 255 is in no UTF-8, and no id has it.

local INDEX, NAMES, EXPIRIES, ENTRIES, PARTITIONS = unpack(KEYS)
local CALL, PARTITION = ARGV[1], ARGV[2]
local MARK = '\255'

local function command(name, key, values)
  return #values > 0 and redis.call(name, key, unpack(values)) or {}
end

local function remove(positions)
  local index, names, expiries, entries = {}, {}, {}, {}
  for i, entry in ipairs(command('HMGET', ENTRIES, positions)) do
    local position = positions[i]
    index[#index + 1] = position
    if entry then
      entries[#entries + 1] = position
      names[#names + 1] = (entry:match('^[^\255]*\255', 20) or MARK) .. position
      expiries[#expiries + 1] = entry:sub(1, 19) .. position
    end
  end
  command('ZREM', INDEX, index)
  command('ZREM', NAMES, names)
  command('ZREM', EXPIRIES, expiries)
  command('HDEL', ENTRIES, entries)
  if redis.call('EXISTS', ENTRIES) == 0 then redis.call('SREM', PARTITIONS, PARTITION) end
  return #entries
end

-- Of the newest, those after the first `skipped`. With `before`, of those that are older.
local function newest(name, before, skipped, limit)
  if name == cjson.null then
    return redis.call('ZREVRANGEBYLEX', INDEX, before == cjson.null and '+' or '(' .. before, '-', 'LIMIT', skipped, limit)
  end
  local start = name .. MARK
  local last = before == cjson.null and '[' .. start .. MARK or '(' .. start .. before
  local found = redis.call('ZREVRANGEBYLEX', NAMES, last, '[' .. start, 'LIMIT', skipped, limit)
  for i, each in ipairs(found) do found[i] = each:sub(#start + 1) end
  return found
end

local call = {}

function call.append(positions, expires, names, texts)
  local index, by_name, expiries, entries = {}, {}, {}, {}
  for i, entry in ipairs(command('HMGET', ENTRIES, positions)) do
    if not entry then
      local n, position = #index, positions[i]
      index[n + 1], index[n + 2] = 0, position
      by_name[n + 1], by_name[n + 2] = 0, names[i] .. MARK .. position
      expiries[n + 1], expiries[n + 2] = 0, expires[i] .. position
      entries[n + 1], entries[n + 2] = position, expires[i] .. names[i] .. MARK .. texts[i]
    end
  end
  command('ZADD', INDEX, index)
  command('ZADD', NAMES, by_name)
  command('ZADD', EXPIRIES, expiries)
  command('HSET', ENTRIES, entries)
  redis.call('SADD', PARTITIONS, PARTITION)
  return true
end

function call.runs(name, before, limit)
  local positions = newest(name, before, 0, limit)
  local found = command('HMGET', ENTRIES, positions)
  for i, entry in ipairs(found) do
    local mark = entry and entry:find(MARK, 20, true)
    found[i] = mark and {positions[i], entry:sub(1, 19), entry:sub(20, mark - 1), entry:sub(mark + 1)} or {positions[i]}
  end
  return found
end

function call.expired(now)
  return #redis.call('ZRANGEBYLEX', EXPIRIES, '-', '[' .. now .. MARK, 'LIMIT', 0, 1)
end

function call.prune(now, limit)
  local positions = redis.call('ZRANGEBYLEX', EXPIRIES, '-', '[' .. now .. MARK, 'LIMIT', 0, limit)
  for i, each in ipairs(positions) do
    positions[i] = each:sub(20)
    -- One that leads nowhere would be met with for ever.
    if redis.call('HEXISTS', ENTRIES, positions[i]) == 0 then redis.call('ZREM', EXPIRIES, each) end
  end
  return remove(positions)
end

function call.trim(name, keep, limit)
  return remove(newest(name, cjson.null, keep, limit))
end

return cjson.encode(call[CALL](unpack(cjson.decode(ARGV[3]))))
