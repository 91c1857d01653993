-- release: end a hold and free all of it that was not charged.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch          integer  see prelude.lua
-- ARGV[2] id             text     the hold's id
--
-- Returns {status, ...}, the first status that applies:
--   hold_not_found  no hold of this id; nothing changed
--   conflict        the id is a debit's or refund's; nothing changed
--   released        replayed 1: it was released before; the first answer; nothing changed
--   hold_settled    it has ended; nothing changed
--   hold_expired    it has ended; nothing changed
--   released        replayed 0, released, available

local id = ARGV[2]

local refusal = begin()
if refusal then
  return refusal
end
local hold = find(id)
if not hold then
  return finish({ 'hold_not_found' })
end
if hold[KIND] ~= 'hold' then
  return finish({ 'conflict' })
end
if hold[STATE] == 'released' then
  return finish({ 'released', 1, hold[LAST_ANSWER][1], hold[LAST_ANSWER][2] })
end
if hold[STATE] ~= 'held' then
  return finish({ 'hold_' .. hold[STATE] })
end

local released = total_of(hold[HELD])
give_held(hold[HELD])
cover()
hold[LAST], hold[LAST_ANSWER] = '', { released, account.available }
close_hold(id, hold, 'released')
return finish({ 'released', 0, released, account.available })
