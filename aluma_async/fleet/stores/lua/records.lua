-- The records and holds of a fleet: the first part of a script that is the counterpart of stores/tables.py.
--
-- The parts (records, rows, limits, steps) are joined to one script, and each call of it is atomic.
--
-- KEYS[1]: the prefix of all keys, which contains their hash tag.
-- ARGV: name of the step; its argument and the constants, as MessagePack; id of a new epoch; then texts that are only
-- stored (tasks, holds), to which the argument refers by number. The reply is a MessagePack map, then such texts.

local prefix, step = KEYS[1], ARGV[1]
local argument, constants, new_epoch = cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3]), ARGV[4]
local FIRST_TEXT = 5
local NEVER = -1e18
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6

local function key(name) return prefix .. ':' .. name end

local function set_of(list)
  local set = {}
  for _, item in ipairs(list) do set[item] = true end
  return set
end

local HELD, STARTED = set_of(constants.held), set_of(constants.started)
local INTENDED, EXCLUSIVE = set_of(constants.intended), set_of(constants.exclusive)
local CLAIMS = set_of(constants.claims)

-- state, nodes and notices

local function load_state()
  local value = redis.call('GET', key('state'))
  if value then return cmsgpack.unpack(value) end
  return {
    epoch = new_epoch, reported_at = NEVER, learning_until = NEVER, pause_until = NEVER, next_position = 1, revision = 0,
    scopes = {},
  }
end

local function save_state(state) redis.call('SET', key('state'), cmsgpack.pack(state)) end

local function load_node(node_id)
  local value = redis.call('HGET', key('nodes'), node_id)
  return value and cmsgpack.unpack(value) or {sequence = 0, at = NEVER, taken_by = ''}
end

local function save_node(node_id, node) redis.call('HSET', key('nodes'), node_id, cmsgpack.pack(node)) end

local function is_present(node_id)
  return tonumber(redis.call('PUBSUB', 'NUMSUB', key('node:' .. node_id))[2]) > 0
end

local function notify(kind) redis.call('PUBLISH', key('notices'), kind) end

-- records: a hash from task to node to record; a set of the unsettled tasks of each node

local function load_task(task_id)
  local value = redis.call('HGET', key('tasks'), task_id)
  return value and cmsgpack.unpack(value) or {}
end

local function save_task(task_id, records)
  local last = NEVER
  for _, record in pairs(records) do last = math.max(last, record.ends) end
  if last == NEVER then
    redis.call('HDEL', key('tasks'), task_id)
    redis.call('ZREM', key('expiry'), task_id)
  else
    redis.call('HSET', key('tasks'), task_id, cmsgpack.pack(records))
    redis.call('ZADD', key('expiry'), last, task_id)
  end
end

local function forget(task_id, node_id)
  redis.call('SREM', key('own:' .. node_id), task_id)
  redis.call('SREM', key('contested:' .. node_id), task_id)
  redis.call('HDEL', key('moved:' .. node_id), task_id)
end

local function is_valid(record) return record.since <= now and now < record.ends end

local function drop(task_id, node_id)
  local records = load_task(task_id)
  records[node_id] = nil
  forget(task_id, node_id)
  save_task(task_id, records)
end

local function put(task_id, records, node_id, record)
  forget(task_id, node_id)
  records[node_id] = record
  if record.state ~= 'settled' then redis.call('SADD', key('own:' .. node_id), task_id) end
  save_task(task_id, records)
end

local function contest(task_id, node_id) redis.call('SADD', key('contested:' .. node_id), task_id) end

local function is_blocked(task_id)
  for _, record in pairs(load_task(task_id)) do
    if EXCLUSIVE[record.state] and is_valid(record) then return true end
  end
  local value = redis.call('HGET', key('holds'), task_id)
  if not value then return false end
  local hold = cmsgpack.unpack(value)
  return hold.since <= now and now < hold.ends
end

local function apply_claim(node_id, claim, refused)
  local task_id, state, age, remaining, unconfirmed_age = unpack(claim)
  local records, is_refused = load_task(task_id), false
  local others = {}
  for other, record in pairs(records) do
    if other ~= node_id and is_valid(record) then
      others[other] = record.state
      is_refused = is_refused or (INTENDED[state] and EXCLUSIVE[record.state])
    end
  end
  if is_refused then table.insert(refused, task_id) end
  if is_refused or state == 'released' then
    records[node_id] = nil
    forget(task_id, node_id)
    save_task(task_id, records)
    return
  end
  local record = {state = state, since = now - age, ends = now + remaining}
  if unconfirmed_age >= 0 then record.unconfirmed = now - unconfirmed_age end
  put(task_id, records, node_id, record)
  for other, other_state in pairs(others) do
    local both = HELD[state] and STARTED[other_state]
    if both or (state == 'unconfirmed' and STARTED[other_state]) then contest(task_id, node_id) end
    if both or (other_state == 'unconfirmed' and STARTED[state]) then contest(task_id, other) end
  end
end

local function delete_missing(node_id, claims)
  local reported = {}
  for _, claim in ipairs(claims) do reported[claim[1]] = true end
  for _, task_id in ipairs(redis.call('SMEMBERS', key('own:' .. node_id))) do
    if not reported[task_id] and redis.call('HEXISTS', key('moved:' .. node_id), task_id) == 0 then
      drop(task_id, node_id)
    end
  end
end

local function move(old, new)
  for _, task_id in ipairs(redis.call('SMEMBERS', key('own:' .. old))) do
    local records = load_task(task_id)
    local record = records[old]
    records[old] = nil
    forget(task_id, old)
    if record and CLAIMS[record.state] and not records[new] then
      put(task_id, records, new, record)
      redis.call('HSET', key('moved:' .. new), task_id, old)
    else
      save_task(task_id, records)
    end
  end
end

local function end_node(node_id, node, successor)
  move(node_id, successor)
  node.taken_by, node.at = successor, now
  save_node(node_id, node)
end

local function moved(node_id, from)
  local claims, found = {}, redis.call('HGETALL', key('moved:' .. node_id))
  for i = 1, #found, 2 do
    local record = load_task(found[i])[node_id]
    if record and is_valid(record) and (not from or found[i + 1] == from) then
      local claim = {task_id = found[i], state = record.state, age = now - record.since, remaining = record.ends - now}
      if record.unconfirmed then claim.unconfirmed_age = now - record.unconfirmed end
      table.insert(claims, claim)
    end
  end
  return claims
end

local function has_claims(node_id)
  for _, task_id in ipairs(redis.call('SMEMBERS', key('own:' .. node_id))) do
    local record = load_task(task_id)[node_id]
    if record and CLAIMS[record.state] then return true end
  end
  return false
end

local function delete_expired()
  for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', key('expiry'), '-inf', now, 'LIMIT', 0, 100)) do
    for node_id in pairs(load_task(task_id)) do forget(task_id, node_id) end
    save_task(task_id, {})
  end
  for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', key('hold_ends'), '-inf', now, 'LIMIT', 0, 100)) do
    redis.call('HDEL', key('holds'), task_id)
    redis.call('ZREM', key('hold_ends'), task_id)
    redis.call('ZREM', key('hold_revisions'), task_id)
  end
end

-- holds

local function apply_holds(state, node_id, holds)
  for _, entry in ipairs(holds) do
    local task_id, age, seconds, number = unpack(entry)
    local since, text = now - age, number > 0 and ARGV[FIRST_TEXT + number - 1] or ''
    local value = redis.call('HGET', key('holds'), task_id)
    local known = value and cmsgpack.unpack(value)
    local is_older = known and known.since <= now and since < known.since
    local is_same = known and known.since <= now and known.text == text and since - known.since <= 1
    if not (is_older or is_same) then
      local ends = since + seconds
      local forgotten = ends + (number > 0 and constants.hold_memory_seconds or constants.ended_hold_seconds)
      state.revision = state.revision + 1
      redis.call('HSET', key('holds'), task_id, cmsgpack.pack({since = since, ends = ends, node = node_id, text = text}))
      redis.call('ZADD', key('hold_revisions'), state.revision, task_id)
      redis.call('ZADD', key('hold_ends'), forgotten, task_id)
    end
  end
end

local function changed_holds(state, node_id, revision, texts)
  local holds = {}
  if revision > state.revision then revision = 0 end
  if revision == state.revision then return holds, revision end
  local found = redis.call(
    'ZRANGEBYSCORE', key('hold_revisions'), '(' .. revision, '+inf', 'WITHSCORES', 'LIMIT', 0, constants.max_holds
  )
  for i = 1, #found, 2 do
    local hold = cmsgpack.unpack(redis.call('HGET', key('holds'), found[i]))
    if hold.node ~= node_id and hold.since <= now then
      table.insert(texts, hold.text)
      table.insert(holds, {found[i], now - hold.since})
    end
  end
  return holds, #found == 2 * constants.max_holds and tonumber(found[#found]) or state.revision
end
