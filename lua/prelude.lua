-- prelude: what the account scripts share. The loader puts it before each of them, after `#!lua`.
--
-- KEYS are the same in every script: all that there is of one account, and its shard's stream.
--
-- KEYS[1] account_key  hash    the account: epoch, gen, available, held, head of the burn order, ...
-- KEYS[2] grants_key   hash    <grant_no> -> "<order> <id>", <grant_no>:left -> what is left
-- KEYS[3] order_key    zset    order of each grant that has something left, but the head; score 0
-- KEYS[4] holds_key    hash    id of an open hold -> its packed record
-- KEYS[5] expiry_key   zset    h:<hold id> and g:<grant_no> by the instant of their expiry, ms
-- KEYS[6] sweep_key    zset    of the shard: account by the instant of its next expiry, ms
-- KEYS[7] answers_even hash    ids of even days -> packed record: the first answers, for replays
-- KEYS[8] answers_odd  hash    the same of odd days
-- KEYS[9] stream_key   stream  of the shard: events for the ledger, one packed field `e`; and when
--                              an account has run low, its name in the field `r`
-- ARGV[1] epoch        integer the shard's epoch, as the caller knows it
--
-- Every script answers an array, first its status. These three come before all others:
--   unknown  Redis does not have the account; nothing changed
--   fenced   the account is of another epoch; nothing changed
--   again    more is due to expire than one call may end: call expire, then this again
--
-- The last element of an answer that has looked at the account is for the journal of the sidecar:
-- {allowance, stream_id, event}: what the account may use while Redis is away, and the usage event
-- that this call wrote, as it is in the stream; {allowance, stream_id} when it is a replay of the
-- call that wrote it; {allowance} when there is none.

local account_key, grants_key, order_key, holds_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local expiry_key, sweep_key, stream_key = KEYS[5], KEYS[6], KEYS[9]
local answers_keys = { [0] = KEYS[7], [1] = KEYS[8] }
local epoch = ARGV[1]

local MAX_AMOUNT = 9007199254740991
local NEVER = 999999999999999
local DAY_MS = 86400000
local BURN_GRANTS = 1000 -- grants that one call may empty; what is beyond them is covered later
local EXPIRE_ITEMS = 16 -- holds and grants that one call may end

-- A record, packed: what is known of one hold, debit or refund.
local KIND, STATE, FINGERPRINT, ANSWER, CHARGED, REFUNDED, CHARGES, CONTEXT = 1, 2, 3, 4, 5, 6, 7, 8
-- The fields that only a hold has.
local AMOUNT, HELD, EXPIRES, PRICE_VERSION, LAST, LAST_ANSWER, CREATED = 9, 10, 11, 12, 13, 14, 15
local EXTENDED = 16

local FIELDS = {
  'seq', 'refill_no', 'available', 'held', 'overdraft', 'next_expiry', 'head_left', 'pool',
  'pool_held', 'day', 'gen', 'allowance', 'mark', 'rung',
}
local USAGE = { settle = true, debit = true, refund = true }
local call = redis.call
local now_ms = 0
local account = { name = string.sub(account_key, 10) }
local before = {}
local journal = {} -- stream id and event of this call's usage

-- Exact decimal text: Lua's own conversions keep 14 digits, or write 1e+15.
local function int(number)
  return string.format('%.0f', number)
end

local function push(list, grant_no, amount)
  list[#list + 1] = grant_no
  list[#list + 1] = amount
end

-- Sum of a flat list {grant_no, amount, ...}.
local function total_of(list)
  local sum = 0
  for i = 2, #list, 2 do
    sum = sum + list[i]
  end
  return sum
end

-- The two lists as one, with one entry a grant, in the order of first appearance.
local function merged(list, more)
  local order, sums, result = {}, {}, {}
  for _, part in ipairs({ list, more }) do
    for i = 1, #part, 2 do
      if not sums[part[i]] then
        order[#order + 1] = part[i]
      end
      sums[part[i]] = (sums[part[i]] or 0) + part[i + 1]
    end
  end
  for _, grant_no in ipairs(order) do
    if sums[grant_no] ~= 0 then
      push(result, grant_no, sums[grant_no])
    end
  end
  return result
end

-- An order is 34 digits: priority 3, expiry 15, category 1, grant number 15.
local function grant_of(order)
  return tonumber(string.sub(order, 20))
end

local function expiry_of(order)
  return tonumber(string.sub(order, 4, 18))
end

local function left_field(grant_no)
  return int(grant_no) .. ':left'
end

local function may_spend()
  return account.status ~= 'suspended' and account.status ~= 'closed'
end

-- Tells the ledger that the account has fallen below its mark, or has nothing left: of each once,
-- until it is above again. Refills to an account with nothing do not tell: others may follow.
local function ring()
  local available, was = account.available, before.available
  local level = available <= 0 and 2 or available < account.mark and 1 or 0
  local is_call = account.refill_no == before.refill_no
  if level == 0 then
    account.rung = 0
  elseif level > account.rung and available < was and (was > 0 or is_call) then
    account.rung = level
    call('XADD', stream_key, '*', 'r', account.name)
  end
end

-- Writes what has changed of the account, and returns the answer. Every way out leads through here.
local function finish(answer)
  local changed = {}
  if account.available ~= before.available then
    ring()
  end
  for _, name in ipairs(FIELDS) do
    if account[name] ~= before[name] then
      changed[#changed + 1] = name
      changed[#changed + 1] = int(account[name])
    end
  end
  for _, name in ipairs({ 'head', 'status' }) do
    if account[name] ~= before[name] then
      changed[#changed + 1] = name
      changed[#changed + 1] = account[name]
    end
  end
  if #changed > 0 then
    call('HSET', account_key, unpack(changed))
  end
  answer[#answer + 1] = { may_spend() and account.allowance or 0, unpack(journal) }
  return answer
end

local function event(operation, id, amount, total, flags, allocations, context, detail)
  account.seq = account.seq + 1
  local packed = cmsgpack.pack({
    1, account.name, account.gen, account.seq, operation, id, now_ms, amount, total, flags,
    allocations, context, detail,
  })
  local stream_id = call('XADD', stream_key, '*', 'e', packed)
  if USAGE[operation] then
    journal = { stream_id, packed }
  end
end

-- Expiry ------------------------------------------------------------------------------------

local function schedule(member, at_ms)
  call('ZADD', expiry_key, int(at_ms), member)
  if at_ms < account.next_expiry then
    account.next_expiry = at_ms
    call('ZADD', sweep_key, int(at_ms), account.name)
  end
end

-- The burn order ----------------------------------------------------------------------------

-- The head of the burn order lives in the account itself, so that a charge touches nothing else.
-- There is a head whenever a grant has something left; a head may be empty until the next burn.

local function put_head_back()
  call('HSET', grants_key, left_field(grant_of(account.head)), int(account.head_left))
  if account.head_left > 0 then
    call('ZADD', order_key, 0, account.head)
  end
end

local function take_head(order)
  account.head, account.head_left = '', 0
  if order then
    account.head = order
    account.head_left = tonumber(call('HGET', grants_key, left_field(grant_of(order))))
    call('ZREM', order_key, order)
  end
end

-- Takes up to `amount` from grants in burn order. Returns the allocations, and what they lack.
local function take_from_grants(amount)
  local taken, lacking = {}, amount
  if account.head == '' then
    return taken, lacking
  end
  for _ = 1, BURN_GRANTS do
    local part = math.min(lacking, account.head_left)
    if part > 0 then
      account.head_left = account.head_left - part
      lacking = lacking - part
      push(taken, grant_of(account.head), part)
    end
    if lacking == 0 then
      break
    end
    local next_order = call('ZRANGE', order_key, 0, 0)[1]
    if not next_order then
      break
    end
    put_head_back()
    take_head(next_order)
  end
  return taken, lacking
end

-- Takes up to `amount` from one grant, wherever it stands in the order. Returns what it had of it.
local function take_from_grant(grant_no, amount)
  local known = call('HGET', grants_key, int(grant_no))
  if not known then
    return 0
  end
  local order = string.sub(known, 1, 34)
  if order == account.head then
    local part = math.min(amount, account.head_left)
    account.head_left = account.head_left - part
    return part
  end
  local left = tonumber(call('HGET', grants_key, left_field(grant_no)))
  local part = math.min(amount, left)
  call('HSET', grants_key, left_field(grant_no), int(left - part))
  if part == left then
    call('ZREM', order_key, order)
  end
  return part
end

-- Takes `amount` out of what is available: from grants, and what they lack from the pool, which is
-- the account's overdraft while it is negative. The caller has checked that it may.
local function burn(amount)
  local taken, lacking = take_from_grants(amount)
  if lacking > 0 then
    account.pool = account.pool - lacking
    push(taken, 0, lacking)
  end
  account.available = account.available - amount
  return taken
end

-- Pays an overdraft that was charged (not merely held) from grants that came since.
local function cover()
  local debt = -(account.pool + account.pool_held)
  if debt <= 0 then
    return
  end
  local taken, lacking = take_from_grants(debt)
  if lacking < debt then
    account.pool = account.pool + debt - lacking
    push(taken, 0, lacking - debt)
    event('cover', '', 0, 0, 0, taken, '', '')
  end
end

local function give_to_grant(grant_no, amount)
  if account.head ~= '' and grant_of(account.head) == grant_no then
    account.head_left = account.head_left + amount
    return true
  end
  local known = call('HGET', grants_key, int(grant_no))
  if not known then
    return false
  end
  local order = string.sub(known, 1, 34)
  call('HINCRBY', grants_key, left_field(grant_no), int(amount))
  if account.head == '' then
    take_head(order)
  elseif order < account.head then
    put_head_back()
    take_head(order)
  else
    call('ZADD', order_key, 0, order)
  end
  return true
end

-- Gives allocations back to where they came from. A grant that is gone has expired, and what
-- comes back to it expires too.
local function give(allocations)
  for i = 1, #allocations, 2 do
    local grant_no, amount = allocations[i], allocations[i + 1]
    if grant_no == 0 then
      account.pool = account.pool + amount
      account.available = account.available + amount
    elseif give_to_grant(grant_no, amount) then
      account.available = account.available + amount
    else
      local id = 'grant:' .. int(grant_no)
      event('expire', id, amount, 0, 0, { grant_no, amount }, '', '')
    end
  end
end

local function pool_part(allocations)
  local sum = 0
  for i = 1, #allocations, 2 do
    if allocations[i] == 0 then
      sum = sum + allocations[i + 1]
    end
  end
  return sum
end

-- Frees what a hold has set aside.
local function give_held(held)
  account.pool_held = account.pool_held - pool_part(held)
  account.held = account.held - total_of(held)
  give(held)
end

-- Records -----------------------------------------------------------------------------------

-- Answers are kept in the hash of the day, and both hashes for two days: at least 24 hours.
local function remember(id, record, is_renewed)
  local day = math.floor(now_ms / DAY_MS)
  local key = answers_keys[day % 2]
  call('HSET', key, id, cmsgpack.pack(record))
  if is_renewed then
    -- The clock may step back over midnight, and must not find an older state there.
    call('HDEL', answers_keys[1 - day % 2], id)
  end
  if account.day ~= day then
    call('PEXPIREAT', key, int((day + 2) * DAY_MS))
    account.day = day
  end
end

-- Returns the record of a hold, debit or refund of this id, or nil.
local function find(id)
  local packed = call('HGET', holds_key, id)
  if not packed then
    local day = math.floor(now_ms / DAY_MS)
    packed = call('HGET', answers_keys[day % 2], id) or call('HGET', answers_keys[1 - day % 2], id)
  end
  return packed and cmsgpack.unpack(packed) or nil
end

-- An open hold ends: its record moves to the answers.
local function close_hold(id, hold, state)
  local is_renewed = hold[STATE] == 'expired'
  hold[STATE], hold[HELD] = state, {}
  call('HDEL', holds_key, id)
  call('ZREM', expiry_key, 'h:' .. id)
  remember(id, hold, is_renewed)
end

local function expire_hold(id)
  local hold = cmsgpack.unpack(call('HGET', holds_key, id))
  give_held(hold[HELD])
  close_hold(id, hold, 'expired')
end

-- What was left of a grant ends: it is not available any more, and the event says so.
local function expire_rest(grant_no, left)
  if left > 0 then
    account.available = account.available - left
    event('expire', 'grant:' .. int(grant_no), left, 0, 0, { grant_no, left }, '', '')
  end
end

local function expire_grant(grant_no)
  local left = tonumber(call('HGET', grants_key, left_field(grant_no)))
  local order = string.sub(call('HGET', grants_key, int(grant_no)), 1, 34)
  if order == account.head then
    left = account.head_left
    take_head(call('ZRANGE', order_key, 0, 0)[1])
  else
    call('ZREM', order_key, order)
  end
  call('HDEL', grants_key, int(grant_no), left_field(grant_no))
  expire_rest(grant_no, left)
end

-- Finds out anew what ends next, and tells the sweep.
local function look_ahead()
  local first = call('ZRANGE', expiry_key, 0, 0, 'WITHSCORES')
  account.next_expiry = tonumber(first[2] or NEVER)
  if first[2] then
    call('ZADD', sweep_key, int(account.next_expiry), account.name)
  else
    call('ZREM', sweep_key, account.name)
  end
end

-- Ends what is due, a bounded number; returns whether that was all.
local function expire_due()
  if now_ms < account.next_expiry then
    return true
  end
  local due = call('ZRANGEBYSCORE', expiry_key, '-inf', int(now_ms), 'LIMIT', 0, EXPIRE_ITEMS)
  for _, member in ipairs(due) do
    call('ZREM', expiry_key, member)
    if string.sub(member, 1, 2) == 'h:' then
      expire_hold(string.sub(member, 3))
    else
      expire_grant(tonumber(string.sub(member, 3)))
    end
  end
  cover()
  look_ahead()
  return now_ms < account.next_expiry
end

-- Reads the clock and the account. Returns a refusal, or nil when the account is there.
local function load_account()
  local time = call('TIME')
  now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  local values = call('HMGET', account_key, 'epoch', 'status', 'head', unpack(FIELDS))
  if not values[1] then
    return { 'unknown' }
  end
  if values[1] ~= epoch then
    return { 'fenced' }
  end
  account.status, account.head = values[2], values[3]
  before.status, before.head = values[2], values[3]
  for i, name in ipairs(FIELDS) do
    account[name] = tonumber(values[i + 3] or 0)
    before[name] = account[name]
  end
  return nil
end

-- Begins a decision: the account as it is now, with what was due ended.
local function begin()
  local refusal = load_account()
  if refusal then
    return refusal
  end
  if not expire_due() then
    return finish({ 'again' })
  end
  return nil
end

-- Begins a refill: they are numbered, and each is applied once and in order.
local function begin_refill(gen, refill_no)
  local refusal = load_account()
  if refusal then
    return refusal
  end
  if account.gen ~= gen then
    return { 'stale' }
  end
  if refill_no <= account.refill_no then
    return { 'replayed', account.refill_no }
  end
  if refill_no > account.refill_no + 1 then
    return { 'gap', account.refill_no }
  end
  if not expire_due() then
    return finish({ 'again' })
  end
  account.refill_no = refill_no
  return nil
end

-- Leaves a refill unapplied; what was due has ended all the same.
local function refuse_refill(answer)
  account.refill_no = before.refill_no
  return finish(answer)
end

local function spending_refused()
  return { account.status, call('HGET', account_key, 'reason') or '' }
end
