-- The listed tasks: whose turn it is to list, publishing, and taking. The counterpart of stores/rows.py.

local function turn_holder(state)
  if now < state.turn_until and state.turn_until <= now + constants.turn_seconds then return state.turn end
  return ''
end

local function begin_turn(state, node_id)
  local holder = turn_holder(state)
  if holder ~= '' and holder ~= node_id then return false end
  state.turn, state.turn_until = node_id, now + constants.turn_seconds
  return true
end

local function slot_key(slot) return key('slot:' .. slot) end

local function remove_row(task_id)
  local row = cmsgpack.unpack(redis.call('HGET', key('rows'), task_id))
  redis.call('HDEL', key('rows'), task_id)
  redis.call('ZREM', key('positions'), task_id)
  redis.call('ZREM', slot_key(row.slot), task_id)
  return row
end

local function publish(state, page)
  if page.is_first then
    redis.call('DEL', key('rows'), key('positions'))
    for slot = 0, constants.slots - 1 do redis.call('DEL', slot_key(slot)) end
  end
  local room, added = constants.max_rows - redis.call('HLEN', key('rows')), 0
  for number, row in ipairs(page.rows) do
    local task_id, slot = row[1], row[2]
    if added >= room then break end
    if redis.call('HEXISTS', key('rows'), task_id) == 0 and not is_blocked(task_id) then
      redis.call('HSET', key('rows'), task_id, cmsgpack.pack({slot = slot, text = ARGV[FIRST_TEXT + number - 1]}))
      redis.call('ZADD', key('positions'), state.next_position, task_id)
      redis.call('ZADD', slot_key(slot), state.next_position, task_id)
      state.next_position, added = state.next_position + 1, added + 1
    end
  end
  state.listing.unpublished = page.unpublished
  if page['end'] == 'complete' then
    state.listing.number, state.listing.total = state.listing.number + 1, page.total
    state.listing.oldest_created_at = page.oldest_created_at
  end
  if page['end'] ~= '' and state.turn == page.node_id then
    state.turn = ''
  elseif turn_holder(state) == page.node_id then
    begin_turn(state, page.node_id)
  end
  if added > 0 or page['end'] == 'complete' then notify('l') end
end

local function take_row(node_id, task_id, texts)
  local row = remove_row(task_id)
  if is_blocked(task_id) then return 0 end
  table.insert(texts, row.text)
  local record = {state = 'queued', since = now, ends = now + constants.queued_seconds}
  put(task_id, load_task(task_id), node_id, record)
  return 1
end

local function take_rows(report, texts)
  local missing = report.rows
  repeat
    local found = {}
    for _, slot in ipairs(report.slots) do
      local first = redis.call(
        'ZRANGEBYSCORE', slot_key(slot), report.min_position, '+inf', 'WITHSCORES', 'LIMIT', 0, math.min(missing, 4)
      )
      for i = 1, #first, 2 do table.insert(found, {tonumber(first[i + 1]), first[i]}) end
    end
    table.sort(found, function(one, other) return one[1] < other[1] end)
    for i = 1, math.min(missing, #found) do missing = missing - take_row(report.node_id, found[i][2], texts) end
  until missing == 0 or #found == 0
  while missing > 0 do
    local last = redis.call(
      'ZREVRANGEBYSCORE', key('positions'), '+inf', report.min_position, 'LIMIT', 0, missing
    )
    if #last == 0 then break end
    for _, task_id in ipairs(last) do missing = missing - take_row(report.node_id, task_id, texts) end
  end
  return report.rows - missing
end
