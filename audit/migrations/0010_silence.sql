-- An epoch whose producer stopped without a word and has not come back; unset again when it speaks or closes.
ALTER TABLE signet.epochs ADD COLUMN silent_since timestamptz;
CREATE INDEX epochs_open ON signet.epochs (log_id) WHERE NOT closed;
