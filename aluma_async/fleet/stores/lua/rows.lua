-- The listed tasks: whose turn it is to list, publishing, and taking. The counterpart of stores/rows.py.

local function scope_of(state, name)
  if not state.scopes[name] then
    state.scopes[name] = {turn = '', turn_until = NEVER, listing = {number = 0, total = 0, unpublished = 0}}
  end
  return state.scopes[name]
end

local function turn_holder(scope)
  if now < scope.turn_until and scope.turn_until <= now + constants.turn_seconds then return scope.turn end
  return ''
end

local function begin_turn(scope, node_id)
  local holder = turn_holder(scope)
  if holder ~= '' and holder ~= node_id then return false end
  scope.turn, scope.turn_until = node_id, now + constants.turn_seconds
  return true
end

local function slot_key(scope, slot) return key('slot:' .. slot .. ':' .. scope) end

local function rows_key(scope) return key('rows:' .. scope) end

local function positions_key(scope) return key('positions:' .. scope) end

local function remove_row(scope, task_id)
  local row = cmsgpack.unpack(redis.call('HGET', rows_key(scope), task_id))
  redis.call('HDEL', rows_key(scope), task_id)
  redis.call('ZREM', positions_key(scope), task_id)
  redis.call('ZREM', slot_key(scope, row.slot), task_id)
  return row
end

local function publish(state, page)
  local scope, turns = page.scope, scope_of(state, page.scope)
  if page.is_first then
    redis.call('DEL', rows_key(scope), positions_key(scope))
    for slot = 0, constants.slots - 1 do redis.call('DEL', slot_key(scope, slot)) end
  end
  local room, added = constants.max_rows - redis.call('HLEN', rows_key(scope)), 0
  for number, row in ipairs(page.rows) do
    local task_id, slot = row[1], row[2]
    if added >= room then break end
    if redis.call('HEXISTS', rows_key(scope), task_id) == 0 and not is_blocked(task_id) then
      redis.call('HSET', rows_key(scope), task_id, cmsgpack.pack({slot = slot, text = ARGV[FIRST_TEXT + number - 1]}))
      redis.call('ZADD', positions_key(scope), state.next_position, task_id)
      redis.call('ZADD', slot_key(scope, slot), state.next_position, task_id)
      state.next_position, added = state.next_position + 1, added + 1
    end
  end
  turns.listing.unpublished = page.unpublished
  if page['end'] == 'complete' then
    turns.listing.number, turns.listing.total = turns.listing.number + 1, page.total
    turns.listing.oldest_created_at = page.oldest_created_at
  end
  if page['end'] ~= '' and turns.turn == page.node_id then
    turns.turn = ''
  elseif turn_holder(turns) == page.node_id then
    begin_turn(turns, page.node_id)
  end
  if added > 0 or page['end'] == 'complete' then notify('l') end
end

local function take_row(scope, node_id, task_id, texts)
  local row = remove_row(scope, task_id)
  if is_blocked(task_id) then return 0 end
  table.insert(texts, row.text)
  local record = {state = 'queued', since = now, ends = now + constants.queued_seconds}
  put(task_id, load_task(task_id), node_id, record)
  return 1
end

local function take_rows(report, texts)
  local missing, scope = report.rows, report.scope
  repeat
    local found = {}
    for _, slot in ipairs(report.slots) do
      local first = redis.call(
        'ZRANGEBYSCORE', slot_key(scope, slot), report.min_position, '+inf', 'WITHSCORES', 'LIMIT', 0, math.min(missing, 4)
      )
      for i = 1, #first, 2 do table.insert(found, {tonumber(first[i + 1]), first[i]}) end
    end
    table.sort(found, function(one, other) return one[1] < other[1] end)
    for i = 1, math.min(missing, #found) do missing = missing - take_row(scope, report.node_id, found[i][2], texts) end
  until missing == 0 or #found == 0
  while missing > 0 do
    local last = redis.call(
      'ZREVRANGEBYSCORE', positions_key(scope), '+inf', report.min_position, 'LIMIT', 0, missing
    )
    if #last == 0 then break end
    for _, task_id in ipairs(last) do missing = missing - take_row(scope, report.node_id, task_id, texts) end
  end
  return report.rows - missing
end
