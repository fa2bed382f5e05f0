//! Certificate requests (PKCS #10, RFC 2986), and the certificates (RFC 5280) that answer them.
//!
//! A certificate says of its subject, its key and its names what the request says; nothing else of a request is taken over.
//! Whether somebody may have such a certificate is the caller's to know.

use std::net::IpAddr;

use base::{clock, rng};
use jiff::SignedDuration;
use rcgen::SigningKey;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use yasna::models::{GeneralizedTime, ObjectIdentifier, UTCTime};
use yasna::{DERWriter, Tag};

use crate::{Error, Pki, Result, tls};

/// How long before its making a certificate is good already, for machines whose clocks differ a little.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Certificates of less than this last the whole time from now on.
const SHORT: SignedDuration = SignedDuration::from_hours(8);

/// What a key may be used for, by the words of Kubernetes: bits of KeyUsage (the first is the least significant here), or a
/// purpose of ExtendedKeyUsage.
enum Usage {
    Bit(u16),
    Purpose(&'static [u64]),
}

const USAGES: [(&str, Usage); 23] = [
    ("signing", Usage::Bit(0)),
    ("digital signature", Usage::Bit(0)),
    ("content commitment", Usage::Bit(1)),
    ("key encipherment", Usage::Bit(2)),
    ("data encipherment", Usage::Bit(3)),
    ("key agreement", Usage::Bit(4)),
    ("cert sign", Usage::Bit(5)),
    ("crl sign", Usage::Bit(6)),
    ("encipher only", Usage::Bit(7)),
    ("decipher only", Usage::Bit(8)),
    ("any", Usage::Purpose(&[2, 5, 29, 37, 0])),
    ("server auth", Usage::Purpose(&[1, 3, 6, 1, 5, 5, 7, 3, 1])),
    ("client auth", Usage::Purpose(&[1, 3, 6, 1, 5, 5, 7, 3, 2])),
    ("code signing", Usage::Purpose(&[1, 3, 6, 1, 5, 5, 7, 3, 3])),
    ("email protection", Usage::Purpose(&[1, 3, 6, 1, 5, 5, 7, 3, 4])),
    ("s/mime", Usage::Purpose(&[1, 3, 6, 1, 5, 5, 7, 3, 4])),
    ("ipsec end system", Usage::Purpose(&[1, 3, 6, 1, 5, 5, 7, 3, 5])),
    ("ipsec tunnel", Usage::Purpose(&[1, 3, 6, 1, 5, 5, 7, 3, 6])),
    ("ipsec user", Usage::Purpose(&[1, 3, 6, 1, 5, 5, 7, 3, 7])),
    ("timestamping", Usage::Purpose(&[1, 3, 6, 1, 5, 5, 7, 3, 8])),
    ("ocsp signing", Usage::Purpose(&[1, 3, 6, 1, 5, 5, 7, 3, 9])),
    ("microsoft sgc", Usage::Purpose(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3])),
    ("netscape sgc", Usage::Purpose(&[2, 16, 840, 1, 113730, 4, 1])),
];

/// Every word for what a key may be used for.
pub fn usages() -> impl Iterator<Item = &'static str> {
    USAGES.iter().map(|(word, _)| *word)
}

/// A name that a certificate is for beside its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// A DNS name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
    /// An e-mail address.
    Email(String),
    /// A URI.
    Uri(String),
}

/// A certificate request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The subject's common name, empty if it has none.
    pub common_name: String,
    /// The subject's organizations.
    pub organizations: Vec<String>,
    /// Its other names.
    pub names: Vec<Name>,
    /// The subject, DER.
    subject: Vec<u8>,
    /// The key, DER.
    key: Vec<u8>,
    /// Why it is not proven that the sender has the key.
    unproven: Option<String>,
}

impl Request {
    /// Reads a request in PEM.
    pub fn parse(pem: &[u8]) -> Result<Self> {
        let bad = |e: &dyn std::fmt::Display| Error::Certificate(format!("the request cannot be read: {e}"));
        let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|e| bad(&e))?;
        if block.label != "CERTIFICATE REQUEST" {
            return Err(Error::Certificate("PEM block type must be CERTIFICATE REQUEST".into()));
        }
        let (rest, request) = X509CertificationRequest::from_der(&block.contents).map_err(|e| bad(&e))?;
        if !rest.is_empty() {
            return Err(bad(&"something follows it"));
        }
        let info = &request.certification_request_info;
        let word = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
        let mut names = Vec::new();
        for extension in request.requested_extensions().into_iter().flatten() {
            match extension {
                ParsedExtension::SubjectAlternativeName(asked) => {
                    for name in &asked.general_names {
                        names.extend(name_of(name).map_err(|e| bad(&e))?);
                    }
                }
                ParsedExtension::ParseError { error } => return Err(bad(&error)),
                _ => {}
            }
        }
        Ok(Self {
            common_name: info.subject.iter_common_name().last().and_then(word).unwrap_or_default(),
            organizations: info.subject.iter_organization().filter_map(word).collect(),
            names,
            subject: info.subject.as_raw().to_vec(),
            key: info.subject_pki.raw.to_vec(),
            unproven: request.verify_signature().err().map(|e| e.to_string()),
        })
    }
}

/// A name of a request, unless it is of a kind that certificates are not given.
fn name_of(name: &GeneralName<'_>) -> std::result::Result<Option<Name>, String> {
    Ok(Some(match name {
        GeneralName::DNSName(name) => Name::Dns((*name).to_owned()),
        GeneralName::RFC822Name(name) => Name::Email((*name).to_owned()),
        GeneralName::URI(name) => Name::Uri((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            Name::Ip(match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                (Ok(v4), _) => v4.into(),
                (_, Ok(v6)) => v6.into(),
                _ => return Err(format!("an address of {} bytes", bytes.len())),
            })
        }
        GeneralName::Invalid(_, _) => return Err("a name that cannot be read".into()),
        _ => return Ok(None),
    }))
}

impl Pki {
    /// Answers a request with a certificate (PEM) that is good for `usages` (see [`usages`]) and lasts for `lasts`, but not
    /// longer than the authority itself.
    pub fn sign_request(&self, request: &Request, usages: &[&str], lasts: SignedDuration) -> Result<String> {
        if let Some(why) = &request.unproven {
            let why = format!("unable to verify certificate request signature: {why}");
            return Err(Error::Certificate(why));
        }
        let authority = tls::certificates(self.ca_pem())?;
        let authority =
            authority.first().ok_or_else(|| Error::Certificate("there is no authority".into()))?;
        let (_, authority) = x509_parser::certificate::X509Certificate::from_der(authority)
            .map_err(|e| Error::Certificate(format!("the authority cannot be read: {e}")))?;
        let (mut bits, mut purposes) = (0u16, Vec::new());
        for word in usages {
            match USAGES.iter().find(|(known, _)| known == word).map(|(_, usage)| usage) {
                Some(Usage::Bit(bit)) => bits |= 1 << bit,
                Some(Usage::Purpose(oid)) if !purposes.contains(oid) => purposes.push(*oid),
                Some(Usage::Purpose(_)) => {}
                None => return Err(Error::Certificate(format!("unrecognized usage: {word:?}"))),
            }
        }
        let now = clock::now();
        let start = now - BACKDATE;
        let end = if lasts < SHORT { now + lasts } else { start + lasts };
        let end = end.as_second().min(authority.validity().not_after.timestamp());
        let key = self.issuer.key();
        let algorithm = signature_algorithm(key.algorithm())?;
        let mut serial = [0u8; 16];
        rng::fill(&mut serial);
        serial[0] = serial[0] & 0x7f | 0x40;
        let to_be_signed = yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_tagged(Tag::context(0), |w| w.write_u8(2));
                w.next().write_bigint_bytes(&serial, true);
                w.next().write_der(&algorithm);
                w.next().write_der(authority.subject().as_raw());
                w.next().write_sequence(|w| {
                    write_time(w.next(), start.as_second());
                    write_time(w.next(), end);
                });
                w.next().write_der(&request.subject);
                w.next().write_der(&request.key);
                w.next().write_tagged(Tag::context(3), |w| {
                    w.write_sequence(|w| {
                        if bits != 0 {
                            extension(w.next(), &[2, 5, 29, 15], true, &key_usage(bits));
                        }
                        if !purposes.is_empty() {
                            extension(w.next(), &[2, 5, 29, 37], false, &purposes_der(&purposes));
                        }
                        let nobody = yasna::construct_der(|w| w.write_sequence(|_| {}));
                        extension(w.next(), &[2, 5, 29, 19], true, &nobody);
                        if let Some(id) = key_identifier(&authority) {
                            let of = yasna::construct_der(|w| {
                                w.write_sequence(|w| {
                                    w.next().write_tagged_implicit(Tag::context(0), |w| w.write_bytes(id));
                                });
                            });
                            extension(w.next(), &[2, 5, 29, 35], false, &of);
                        }
                        if !request.names.is_empty() {
                            // Without a subject these are all that there is to go by.
                            let alone = request.subject.len() <= 2;
                            extension(w.next(), &[2, 5, 29, 17], alone, &names_der(&request.names));
                        }
                    });
                });
            });
        });
        let signature = key.sign(&to_be_signed)?;
        let der = yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_der(&to_be_signed);
                w.next().write_der(&algorithm);
                w.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(pem("CERTIFICATE", &der))
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).filter_map(|i| text.get(i..text.len().min(i + 64))).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The AlgorithmIdentifier of what an authority signs with.
fn signature_algorithm(of: &rcgen::SignatureAlgorithm) -> Result<Vec<u8>> {
    let known: [(&rcgen::SignatureAlgorithm, &[u64], bool); 4] = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, &[1, 2, 840, 10045, 4, 3, 2], false),
        (&rcgen::PKCS_ECDSA_P384_SHA384, &[1, 2, 840, 10045, 4, 3, 3], false),
        (&rcgen::PKCS_ED25519, &[1, 3, 101, 112], false),
        (&rcgen::PKCS_RSA_SHA256, &[1, 2, 840, 113549, 1, 1, 11], true),
    ];
    let Some((_, oid, parameters)) = known.into_iter().find(|(known, ..)| *known == of) else {
        return Err(Error::Certificate("the authority's key is of a kind that signs no requests".into()));
    };
    Ok(yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_oid(&ObjectIdentifier::from_slice(oid));
            if parameters {
                w.next().write_null();
            }
        });
    }))
}

/// UTCTime before 2050, GeneralizedTime from then on.
fn write_time(w: DERWriter<'_>, second: i64) {
    let at = time::OffsetDateTime::from_unix_timestamp(second).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    if (1950..2050).contains(&at.year()) {
        w.write_utctime(&UTCTime::from_datetime(at));
    } else {
        w.write_generalized_time(&GeneralizedTime::from_datetime(at));
    }
}

fn extension(w: DERWriter<'_>, oid: &[u64], critical: bool, value: &[u8]) {
    w.write_sequence(|w| {
        w.next().write_oid(&ObjectIdentifier::from_slice(oid));
        if critical {
            w.next().write_bool(true);
        }
        w.next().write_bytes(value);
    });
}

/// A KeyUsage: its first bit is the most significant, and it ends with the last that is set.
fn key_usage(bits: u16) -> Vec<u8> {
    let turned = bits.reverse_bits().to_be_bytes();
    let length = 16 - bits.leading_zeros() as usize;
    yasna::construct_der(|w| w.write_bitvec_bytes(&turned[..length.div_ceil(8)], length))
}

fn purposes_der(purposes: &[&[u64]]) -> Vec<u8> {
    yasna::construct_der(|w| {
        w.write_sequence(|w| {
            for oid in purposes {
                w.next().write_oid(&ObjectIdentifier::from_slice(oid));
            }
        });
    })
}

fn names_der(names: &[Name]) -> Vec<u8> {
    let write = |w: DERWriter<'_>, tag: u64, text: &str| {
        w.write_tagged_implicit(Tag::context(tag), |w| w.write_bytes(text.as_bytes()));
    };
    yasna::construct_der(|w| {
        w.write_sequence(|w| {
            for name in names {
                match name {
                    Name::Email(text) => write(w.next(), 1, text),
                    Name::Dns(text) => write(w.next(), 2, text),
                    Name::Uri(text) => write(w.next(), 6, text),
                    Name::Ip(ip) => w.next().write_tagged_implicit(Tag::context(7), |w| match ip {
                        IpAddr::V4(ip) => w.write_bytes(&ip.octets()),
                        IpAddr::V6(ip) => w.write_bytes(&ip.octets()),
                    }),
                }
            }
        });
    })
}

fn key_identifier<'a>(certificate: &'a x509_parser::certificate::X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    /// A request with these organizations, and its key.
    fn request(organizations: [&str; 2], algorithm: &'static rcgen::SignatureAlgorithm) -> (String, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organizations[0]);
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), organizations[1]);
        params.distinguished_name.push(DnType::CommonName, "jürgen");
        params.subject_alt_names = vec![
            SanType::DnsName("a.b".try_into().unwrap()),
            SanType::IpAddress([10, 0, 0, 1].into()),
            SanType::Rfc822Name("a@b".try_into().unwrap()),
            SanType::URI("https://a/b".try_into().unwrap()),
        ];
        let key = KeyPair::generate_for(algorithm).unwrap();
        (params.serialize_request(&key).unwrap().pem().unwrap(), key)
    }

    #[test]
    fn a_certificate_says_what_the_request_does() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        for algorithm in
            [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
        {
            let (text, key) = request(["dev", "ops"], algorithm);
            let asked = Request::parse(text.as_bytes()).unwrap();
            let groups = vec!["dev".to_owned(), "ops".to_owned()];
            assert_eq!((asked.common_name.as_str(), &asked.organizations), ("jürgen", &groups));
            let names = [
                Name::Dns("a.b".into()),
                Name::Ip([10, 0, 0, 1].into()),
                Name::Email("a@b".into()),
                Name::Uri("https://a/b".into()),
            ];
            assert_eq!(asked.names, names);
            let lasts = SignedDuration::from_hours(24);
            let cert = pki.sign_request(&asked, &["digital signature", "client auth"], lasts).unwrap();
            let der = tls::certificates(&cert).unwrap();
            // The server's own judge believes it, and reads the user and the groups.
            let shown = pki.clients().unwrap().judge(&der).unwrap().unwrap();
            assert_eq!((shown.user.as_str(), &shown.groups), ("jürgen", &groups));
            assert_eq!((shown.until - clock::now()).total(jiff::Unit::Hour).unwrap().round() as i64, 24);
            let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&der[0]).unwrap();
            let found: Vec<Name> = parsed
                .subject_alternative_name()
                .unwrap()
                .unwrap()
                .value
                .general_names
                .iter()
                .filter_map(|n| name_of(n).unwrap())
                .collect();
            assert_eq!(found, names);
            let usage = parsed.key_usage().unwrap().unwrap().value;
            assert!(usage.digital_signature() && !usage.key_encipherment() && !usage.key_cert_sign());
            let purpose = parsed.extended_key_usage().unwrap().unwrap().value;
            assert!(purpose.client_auth && !purpose.server_auth);
            assert!(!parsed.is_ca() && parsed.verify_signature(None).is_err());
            assert_eq!(parsed.public_key().raw, rcgen::PublicKeyData::subject_public_key_info(&key));
            // For servers it is not good.
            let serving = pki.sign_request(&asked, &["server auth"], lasts).unwrap();
            assert!(pki.clients().unwrap().judge(&tls::certificates(&serving).unwrap()).is_err());
        }
    }

    #[test]
    fn nothing_lasts_longer_than_the_authority() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        let asked = Request::parse(request(["a", "b"], &rcgen::PKCS_ED25519).0.as_bytes()).unwrap();
        let lasts = |hours: i64| {
            let cert = pki.sign_request(&asked, &["client auth"], SignedDuration::from_hours(hours)).unwrap();
            crate::not_after(&cert).unwrap()
        };
        assert_eq!(lasts(24 * 365 * 100), crate::not_after(pki.ca_pem()).unwrap());
        // What lasts for long began a little before, what is short lasts from now on.
        let off = |hours: i64| {
            (lasts(hours) - clock::now()).total(jiff::Unit::Second).unwrap() - (hours * 3600) as f64
        };
        assert!((-310.0..-290.0).contains(&off(100)) && (-10.0..10.0).contains(&off(1)));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        let (good, _) = request(["a", "b"], &rcgen::PKCS_ED25519);
        for bad in ["", "nonsense", pki.ca_pem(), &good[..good.len() / 2], &good.replace("REQUEST", "THING")]
        {
            assert!(Request::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        // One whose sender does not have the key can be read, and is not answered.
        let (_, block) = x509_parser::pem::parse_x509_pem(good.as_bytes()).unwrap();
        let mut der = block.contents;
        *der.last_mut().unwrap() ^= 1;
        let forged = Request::parse(pem("CERTIFICATE REQUEST", &der).as_bytes()).unwrap();
        let refused = pki.sign_request(&forged, &["client auth"], SignedDuration::from_hours(1)).unwrap_err();
        assert!(refused.to_string().contains("unable to verify"), "{refused}");
        let asked = Request::parse(good.as_bytes()).unwrap();
        assert!(pki.sign_request(&asked, &["world peace"], SignedDuration::from_hours(1)).is_err());
    }

    #[test]
    fn usages_are_bits_from_the_left() {
        assert_eq!(key_usage(0b1), [3, 2, 7, 0x80]);
        assert_eq!(key_usage(0b101), [3, 2, 5, 0xa0]);
        assert_eq!(key_usage(0b1_0000_0000), [3, 3, 7, 0, 0x80]);
    }
}
