-- restore: give back what a usage event had charged that the ledger dropped as a duplicate, as a
-- numbered refill. The ledger has not counted it, so there is no event.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch        integer  see prelude.lua
-- ARGV[2] gen          integer  the generation that the ledger lent to
-- ARGV[3] refill_no    integer  its number in the generation
-- ARGV[4] allocations  msgpack  {grant_no, amount, ...} of the dropped event
--
-- Returns {status, ...}, the first status that applies:
--   stale     the account is of another generation; nothing changed
--   replayed  refill_no of the account; it has this one; nothing changed
--   gap       refill_no of the account; earlier ones are missing; nothing changed
--   applied   available += what they sum to

local gen, refill_no = tonumber(ARGV[2]), tonumber(ARGV[3])
local allocations = cmsgpack.unpack(ARGV[4])

local refusal = begin_refill(gen, refill_no)
if refusal then
  return refusal
end
give(allocations)
cover()
return finish({ 'applied' })
