-- roll: end grants now, or carry a part of what is left of them over to a later expiry, as a
-- numbered refill. What is not kept expires: each grant that loses something has its event.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch      integer  see prelude.lua
-- ARGV[2] gen        integer  the generation that the ledger lent to
-- ARGV[3] refill_no  integer  its number in the generation
-- ARGV[4] keep       integer  microcredits that all of them keep together, 0 .. 2^53-1
-- ARGV[5] grants     msgpack  {grant_no, order, ...}: 34 digits of its new place in the burn order;
--                             the first keep first; at most 1,000 grants
--
-- A grant that is not there any more is passed over. With keep 0 the others go, and what running
-- holds give back to them later expires too. Otherwise they stay, with nothing left of some, and
-- what running holds give back stays in them, even if that is then more than keep.
--
-- Returns {status, ...}, the first status that applies:
--   stale     the account is of another generation; nothing changed
--   replayed  refill_no of the account; it has this one; nothing changed
--   gap       refill_no of the account; earlier ones are missing; nothing changed
--   applied   available -= what is not kept

local gen, refill_no, keep = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local grants = cmsgpack.unpack(ARGV[5])

local refusal = begin_refill(gen, refill_no)
if refusal then
  return refusal
end

-- Moves a grant to another place in the burn order with what it keeps; returns what that is.
local function carry_over(grant_no, known, order, most)
  local left = take_from_grant(grant_no, MAX_AMOUNT)
  if string.sub(known, 1, 34) == account.head then
    put_head_back()
    take_head(call('ZRANGE', order_key, 0, 0)[1])
  end
  call('HSET', grants_key, int(grant_no), order .. string.sub(known, 35))
  local kept = math.min(left, most)
  if kept > 0 then
    give_to_grant(grant_no, kept)
  end
  expire_rest(grant_no, left - kept)
  if expiry_of(order) < NEVER then
    schedule('g:' .. int(grant_no), expiry_of(order))
  end
  return kept
end

local lacking = keep
for i = 1, #grants, 2 do
  local grant_no, order = grants[i], grants[i + 1]
  local known = call('HGET', grants_key, int(grant_no))
  if known then
    call('ZREM', expiry_key, 'g:' .. int(grant_no))
    if keep == 0 then
      expire_grant(grant_no)
    else
      lacking = lacking - carry_over(grant_no, known, order, lacking)
    end
  end
end
look_ahead()
return finish({ 'applied' })
