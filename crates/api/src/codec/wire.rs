//! The protobuf wire format, as far as we need it: varints, fixed numbers, length-delimited fields.

/// Appends a varint.
pub fn varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push((v as u8 & 0x7f) | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Appends a varint field.
pub fn number(out: &mut Vec<u8>, field: u32, v: u64) {
    varint(out, u64::from(field) << 3);
    varint(out, v);
}

/// Appends a 64-bit field.
pub fn double(out: &mut Vec<u8>, field: u32, v: f64) {
    varint(out, u64::from(field) << 3 | 1);
    out.extend_from_slice(&v.to_le_bytes());
}

/// Appends a length-delimited field: text, bytes or a message.
pub fn bytes(out: &mut Vec<u8>, field: u32, v: &[u8]) {
    varint(out, u64::from(field) << 3 | 2);
    varint(out, v.len() as u64);
    out.extend_from_slice(v);
}

/// One field of a message that is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Varint.
    Number(u64),
    /// 64 bits.
    Fixed64(u64),
    /// 32 bits.
    Fixed32(u32),
    /// Length-delimited.
    Bytes(&'a [u8]),
}

/// Reads the fields of a message.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// A varint.
    pub fn varint(&mut self) -> Option<u64> {
        let mut v = 0u64;
        for shift in (0..70).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            if shift < 64 {
                v |= u64::from(first & 0x7f) << shift;
            }
            if first & 0x80 == 0 {
                return Some(v);
            }
        }
        None
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        if n > self.0.len() {
            return None;
        }
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        Some(taken)
    }

    /// The next field: its number and value. `Ok(None)` at the end; `Err` where the bytes are no message.
    pub fn field(&mut self) -> Result<Option<(u32, Value<'a>)>, &'static str> {
        const BAD: &str = "proto: unexpected EOF";
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint().ok_or(BAD)?;
        let field = u32::try_from(tag >> 3).map_err(|_| "proto: illegal tag")?;
        if field == 0 {
            return Err("proto: illegal tag 0");
        }
        let value = match tag & 7 {
            0 => Value::Number(self.varint().ok_or(BAD)?),
            1 => {
                let b = self.take(8).and_then(|b| b.try_into().ok()).ok_or(BAD)?;
                Value::Fixed64(u64::from_le_bytes(b))
            }
            2 => {
                let n = usize::try_from(self.varint().ok_or(BAD)?).map_err(|_| BAD)?;
                Value::Bytes(self.take(n).ok_or(BAD)?)
            }
            5 => {
                let b = self.take(4).and_then(|b| b.try_into().ok()).ok_or(BAD)?;
                Value::Fixed32(u32::from_le_bytes(b))
            }
            _ => return Err("proto: illegal wireType"),
        };
        Ok(Some((field, value)))
    }
}
