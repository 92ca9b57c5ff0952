//! One certificate for every TLS server of the tests: made anew each run, for `localhost` and 127.0.0.1, trusted by nobody
//! but who is told to.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::PrivateKeyDer;

pub struct Certificate {
    pub pem: String,
    pub key_pem: String,
    der: Vec<u8>,
    key_der: Vec<u8>,
}

pub fn certificate() -> &'static Certificate {
    static MADE: OnceLock<Certificate> = OnceLock::new();
    MADE.get_or_init(|| {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Certificate {
            pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
            der: made.cert.der().to_vec(),
            key_der: made.signing_key.serialize_der(),
        }
    })
}

impl Certificate {
    /// As a file: for `ssl.ca.location` of librdkafka, and for `SSL_CERT_FILE`, by which a daemon under test trusts it.
    pub fn file(&self) -> PathBuf {
        static FILE: OnceLock<PathBuf> = OnceLock::new();
        let write = || {
            let path = super::scratch_file(&format!("tls-{}.pem", std::process::id()));
            std::fs::write(&path, &self.pem).unwrap();
            path
        };
        FILE.get_or_init(write).clone()
    }

    pub fn server(&self) -> Arc<rustls::ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(self.key_der.clone().into());
        // The provider is named, so that no test depends on another having installed one for the process.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone().into()], key)
            .unwrap();
        Arc::new(config)
    }
}
