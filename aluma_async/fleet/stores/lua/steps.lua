-- The steps that nodes call. The counterpart of stores/tables.py.

local function load_others(node_id)
  local nodes, found = {}, redis.call('HGETALL', key('nodes'))
  for i = 1, #found, 2 do
    if found[i] ~= node_id then
      local node = cmsgpack.unpack(found[i + 1])
      if now - constants.taken_over_seconds < node.at and node.at <= now then
        nodes[found[i]] = node
      else
        redis.call('HDEL', key('nodes'), found[i])
      end
    end
  end
  return nodes
end

local function move_predecessors(report)
  local known, outcomes = set_of(report.predecessors), {}
  for _, node_id in ipairs(report.predecessors) do
    local node = load_node(node_id)
    if node.sequence == 0 or node_id == report.node_id then
      outcomes.unknown = true
    elseif node.taken_by == '' then
      end_node(node_id, node, report.node_id)
      outcomes.moved = true
    elseif node.taken_by == report.node_id or known[node.taken_by] then
      outcomes.moved = true
    else
      outcomes.taken = true
    end
  end
  return outcomes.taken and 'taken' or outcomes.moved and 'moved' or outcomes.unknown and 'unknown' or ''
end

local function sync(report)
  local state, own, texts, refused, nodes = load_state(), load_node(report.node_id), {}, {}, {}
  local update = {epoch = state.epoch, stored_sequence = own.sequence}
  if own.taken_by ~= '' then update.taken_over = true end
  if own.taken_by ~= '' or report.sequence <= own.sequence then return update, texts end
  if report.full then delete_missing(report.node_id, report.claims) end
  update.predecessor = move_predecessors(report)
  for _, claim in ipairs(report.claims) do apply_claim(report.node_id, claim, refused) end
  apply_holds(state, report.node_id, report.holds)
  update.holds, update.revision = changed_holds(state, report.node_id, report.revision, texts)
  update.pause = math.max(0, math.min(state.pause_until, now + 86400) - now)
  if report.pause > update.pause + 0.1 then
    update.pause, state.pause_until = report.pause, now + report.pause
    notify('p')
  end
  local scope = scope_of(state, report.scope)
  if report.is_listing and turn_holder(scope) == report.node_id then begin_turn(scope, report.node_id) end
  if report.rows > 0 then take_rows(report, texts) end
  local others = load_others(report.node_id)
  update.quota = store_node(report, others, is_learning(state))
  delete_expired()
  for node_id, node in pairs(others) do
    if node.taken_by == '' then
      table.insert(nodes, {node_id = node_id, sequence = node.sequence, is_present = is_present(node_id)})
    end
  end
  update.nodes, update.refused, update.moved = nodes, refused, moved(report.node_id)
  update.contested = redis.call('SMEMBERS', key('contested:' .. report.node_id))
  update.rows_left, update.next_position = redis.call('HLEN', rows_key(report.scope)), state.next_position
  update.listing, update.lister = scope.listing, turn_holder(scope)
  save_state(state)
  return update, texts
end

local function take_over(call)
  local node = load_node(call.dead)
  if load_node(call.node_id).taken_by ~= '' then return {} end
  if node.taken_by == '' then
    if node.sequence ~= call.sequence or (not call.is_present and is_present(call.dead)) then return {} end
    end_node(call.dead, node, call.node_id)
  elseif node.taken_by ~= call.node_id then
    return {}
  end
  return moved(call.node_id, call.dead)
end

local function inspect()
  local state, nodes, holds, rows = load_state(), {}, 0, 0
  local listing = {number = 0, total = 0, unpublished = 0}
  for name, scope in pairs(state.scopes) do
    rows = rows + redis.call('HLEN', rows_key(name))
    if scope.listing.total > listing.total then listing = scope.listing end
  end
  local found = redis.call('HGETALL', key('nodes'))
  for i = 1, #found, 2 do
    local node = cmsgpack.unpack(found[i + 1])
    if node.taken_by == '' then
      table.insert(nodes, {
        node_id = found[i], seconds = now - node.at, is_present = is_present(found[i]),
        claims = redis.call('SCARD', key('own:' .. found[i])), quota = node.usage.quota,
      })
    end
  end
  for _, value in ipairs(redis.call('HVALS', key('holds'))) do
    local hold = cmsgpack.unpack(value)
    if hold.since <= now and now < hold.ends then holds = holds + 1 end
  end
  return {
    epoch = state.epoch, nodes = nodes, listing = listing, rows = rows, holds = holds,
    pause = math.max(0, state.pause_until - now),
  }
end

local result, texts = nil, {}
if step == 'sync' then
  result, texts = sync(argument)
elseif step == 'begin_listing' then
  local state = load_state()
  local node_id, scope = unpack(argument)
  result = load_node(node_id).taken_by == '' and begin_turn(scope_of(state, scope), node_id)
  save_state(state)
elseif step == 'publish' then
  local state = load_state()
  if load_node(argument.node_id).taken_by == '' then publish(state, argument) end
  save_state(state)
  result = true
elseif step == 'take_over' then
  result = take_over(argument)
elseif step == 'release_holds' then
  local state = load_state()
  apply_holds(state, '', argument)
  save_state(state)
  notify('h')
  result = true
else
  result = inspect()
end
return {cmsgpack.pack(result), unpack(texts)}
