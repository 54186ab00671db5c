-- The parts of the limits that nodes may use. The counterpart of policy/quota.py.

local function fair_share(limit, wanted, node_id, whole)
  local left, count = limit, #wanted
  table.sort(wanted, function(one, other)
    if one.amount ~= other.amount then return one.amount < other.amount end
    return one.node < other.node
  end)
  for _, entry in ipairs(wanted) do
    local part = left / count
    if whole then part = math.floor(part) end
    part = math.min(entry.amount, part)
    if entry.node == node_id then return part end
    left, count = left - part, count - 1
  end
  return 0
end

local function grant(name, report, others, learning)
  local limit, held, whole = report.limits[name], report.held[name], name == 'max_at_once'
  local wanted, free = {{node = report.node_id, amount = report.wanted[name]}}, 0
  for node_id, usage in pairs(others) do
    limit = math.min(limit, usage.limits[name])
    table.insert(wanted, {node = node_id, amount = usage.wanted[name]})
  end
  if limit == math.huge then return limit end
  free = limit
  for _, usage in pairs(others) do free = free - usage.reserved[name] end
  local target = fair_share(limit, wanted, report.node_id, whole)
  if whole then target = math.max(target, math.min(held, 1)) end
  if learning then target = math.min(target, held) end
  return math.max(0, math.min(target, free))
end

local function is_learning(state)
  if now - state.reported_at > constants.max_silence_seconds then
    state.learning_until = now + constants.learning_seconds
  end
  state.reported_at = now
  return now < state.learning_until
end

local function store_node(report, nodes, learning)
  local none = {max_at_once = 0, max_per_second = 0, max_bytes_per_second = 0}
  if report.leaving and not has_claims(report.node_id) then
    for _, task_id in ipairs(redis.call('SMEMBERS', key('own:' .. report.node_id))) do drop(task_id, report.node_id) end
    redis.call('HDEL', key('nodes'), report.node_id)
    return none
  end
  local others = {}
  for node_id, node in pairs(nodes) do
    if node.taken_by == '' and node.at <= now and now < node.at + constants.lease_seconds then
      others[node_id] = node.usage
    end
  end
  local usage = {limits = report.limits, wanted = report.wanted, quota = {}, reserved = {}}
  for name in pairs(none) do
    usage.quota[name] = grant(name, report, others, learning)
    usage.reserved[name] = math.max(usage.quota[name], report.held[name])
  end
  save_node(report.node_id, {sequence = report.sequence, at = now, taken_by = '', usage = usage})
  return usage.quota
end
