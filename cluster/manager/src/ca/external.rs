//! An external CA that signs in the place of this manager: the way to it, and how it is doing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use time::OffsetDateTime;
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore},
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use waxseal_ca::{
    CfsslError, Csr, ExternalIssuer, ForeignCertificateError, IssuedCertificate, IssuerInfo,
    LiveTls, NodeProfile, TlsError, TrustBundle, TrustError,
    cfssl::{MAX_RESPONSE_BYTES, node_request, read_response},
    signer_tls,
};
use waxseal_cluster::{
    ROTATION_LEVEL,
    objects::{NoteSigner, SignerTrouble, command::Op},
    timestamp,
};
use waxseal_wire::peer_text;

use crate::core::Core;

/// Time for one address, answer included (spec/pki.md §12).
const DEADLINE: Duration = Duration::from_secs(5);
/// Pause after the first failure; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Requests to it that are under way at once.
const ASKING: usize = 16;
/// Where HTTPS is served without a port in the address.
const HTTPS_PORT: u16 = 443;

/// Why an external CA signed nothing. The first texts are those that users of the protocol know.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExternalError {
    /// None is given for the root that signs.
    #[error(
        "no external CA URLs; give the address of one that has the root's key with `docker swarm \
         update --external-ca`"
    )]
    NoUrls,
    /// Nobody answered, or not in time.
    #[error("unable to perform certificate signing request: {url}: {problem}")]
    Transport {
        /// Its address.
        url: String,
        /// What went wrong.
        problem: String,
    },
    /// The answer broke off or is too long.
    #[error("unable to read CSR response body: {problem}")]
    Body {
        /// What went wrong.
        problem: String,
    },
    /// What it answered.
    #[error(transparent)]
    Protocol(#[from] CfsslError),
    /// What it signed.
    #[error(transparent)]
    Certificate(#[from] ForeignCertificateError),
    /// The request on record.
    #[error("the certificate request on record is no text")]
    Request,
}

impl ExternalError {
    /// Whether asking again is of no use.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            ExternalError::NoUrls
            | ExternalError::Transport { .. }
            | ExternalError::Body { .. } => false,
            ExternalError::Protocol(error) => error.is_final(),
            ExternalError::Certificate(_) | ExternalError::Request => true,
        }
    }
}

/// Why there is no external CA to ask.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExternalConfigError {
    /// The certificate that the CA is to sign with.
    #[error("the external CA's certificate cannot be used")]
    Certificate(#[from] TrustError),
    /// The roots that its server is verified against.
    #[error("the external CA cannot be called")]
    Tls(#[from] TlsError),
}

/// The addresses of the CAs that have the key of one root.
pub struct ExternalSigner {
    urls: Vec<String>,
    issuer: ExternalIssuer,
    tls: Arc<ClientConfig>,
}

impl ExternalSigner {
    /// The CA that has the key of `wanted`; its servers are verified against `trusted`.
    ///
    /// # Errors
    /// See [`ExternalConfigError`].
    pub(crate) fn new(
        urls: Vec<String>,
        wanted: &[u8],
        trusted: &[&[u8]],
        live: &Arc<LiveTls>,
        now: OffsetDateTime,
    ) -> Result<ExternalSigner, ExternalConfigError> {
        let bundles = trusted
            .iter()
            .map(|pem| TrustBundle::from_pem(pem, now))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(ExternalSigner {
            urls,
            issuer: ExternalIssuer::from_pem(wanted, now)?,
            tls: signer_tls(live, &bundles.iter().collect::<Vec<_>>())?,
        })
    }

    /// Who signs.
    pub(crate) fn issuer_info(&self) -> &IssuerInfo {
        self.issuer.issuer_info()
    }

    /// Has a node's certificate signed, and takes it if it is as the profile says.
    ///
    /// # Errors
    /// The last address's [`ExternalError`].
    pub(crate) async fn issue(
        &self,
        profile: &NodeProfile,
        csr_pem: &[u8],
        csr: &Csr,
        now: OffsetDateTime,
    ) -> Result<IssuedCertificate, ExternalError> {
        let csr_pem = std::str::from_utf8(csr_pem).map_err(|_| ExternalError::Request)?;
        let body = Bytes::from(node_request(csr_pem, profile));
        self.ask(&body, |pem| self.issuer.accept_leaf(pem, profile, csr, now))
            .await
    }

    /// Has a new root cross-signed, and takes it if it is the one that was sent; as PEM.
    ///
    /// # Errors
    /// The last address's [`ExternalError`].
    pub async fn cross_sign(
        &self,
        request: String,
        root: &IssuerInfo,
        now: OffsetDateTime,
    ) -> Result<String, ExternalError> {
        let body = Bytes::from(request);
        self.ask(&body, |pem| self.issuer.accept_cross_signed(pem, root, now))
            .await
    }

    /// One address after the other, until one has what is `accept`ed.
    async fn ask<T>(
        &self,
        body: &Bytes,
        accept: impl Fn(&str) -> Result<T, ForeignCertificateError>,
    ) -> Result<T, ExternalError> {
        let mut last = ExternalError::NoUrls;
        for url in &self.urls {
            let answer = post(&self.tls, url, body.clone()).await;
            let taken = answer.and_then(|(status, body)| {
                let pem = read_response(status, &body)?;
                Ok(accept(&pem)?)
            });
            match taken {
                Ok(taken) => return Ok(taken),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whether one of the addresses takes a connection whose server the wanted root vouches
    /// for; nothing is asked of it (spec/pki.md §11.2).
    pub async fn is_reachable(&self) -> bool {
        for url in &self.urls {
            match tokio::time::timeout(DEADLINE, connect(&self.tls, url)).await {
                Ok(Ok(_)) => return true,
                Ok(Err(problem)) => {
                    let problem = peer_text(&problem);
                    tracing::info!(%url, %problem, "the external CA is not reachable");
                }
                Err(_) => tracing::info!(%url, "the external CA does not answer"),
            }
        }
        false
    }
}

/// The connection to an address; the error says why there is none.
async fn connect(
    tls: &Arc<ClientConfig>,
    url: &str,
) -> Result<(Uri, TlsStream<TcpStream>), String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    if uri.scheme_str() != Some("https") {
        return Err("invalid HTTP scheme".to_owned());
    }
    let host = uri.host().ok_or("the address names no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(HTTPS_PORT);
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| error.to_string())?;
    // Small messages, each waited for.
    let _ = stream.set_nodelay(true);
    let stream = TlsConnector::from(Arc::clone(tls))
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())?;
    Ok((uri, stream))
}

/// Status and body of the answer to one `POST`.
async fn post(
    tls: &Arc<ClientConfig>,
    url: &str,
    body: Bytes,
) -> Result<(u16, Bytes), ExternalError> {
    let deadline = Instant::now() + DEADLINE;
    let failed = |problem: String| ExternalError::Transport {
        url: peer_text(url),
        problem: peer_text(&problem),
    };
    let late = |_| failed(format!("no answer within {} s", DEADLINE.as_secs()));
    let answered = tokio::time::timeout_at(deadline, async {
        let (uri, stream) = connect(tls, url).await.map_err(failed)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
                .await
                .map_err(|error| failed(error.to_string()))?;
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::post(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| failed(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await;
            let response = response.map_err(|error| failed(error.to_string()))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES)
                .collect()
                .await;
            let body = body.map_err(|error| ExternalError::Body {
                problem: peer_text(&error.to_string()),
            })?;
            Ok((status, body.to_bytes()))
        };
        // The connection lives no longer than its one exchange.
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            _ = connection => exchange.await,
        }
    });
    answered.await.map_err(late)?
}

/// Why a request stays unsigned.
#[derive(Debug)]
pub(crate) enum NotSigned {
    /// For good; the text is for the node and its operator.
    Failed(String),
    /// The CA could not be asked; it is asked again.
    Later,
}

/// Who asks the external CA: so many at once, after failures with pauses, and it is on record
/// how it does.
pub(crate) struct Asked {
    places: Semaphore,
    trouble: Mutex<Option<Trouble>>,
    failed: Notify,
}

/// What is wrong with the CA.
#[derive(Debug)]
struct Trouble {
    error: String,
    failures: u32,
    retry_at: Instant,
}

impl Default for Asked {
    fn default() -> Asked {
        Asked {
            places: Semaphore::new(ASKING),
            trouble: Mutex::default(),
            failed: Notify::new(),
        }
    }
}

impl Asked {
    /// Has a node's certificate signed; while the CA is down nobody waits for it.
    ///
    /// # Errors
    /// See [`NotSigned`].
    pub(crate) async fn sign(
        &self,
        core: &Core,
        signer: &ExternalSigner,
        profile: &NodeProfile,
        csr_pem: &[u8],
        csr: &Csr,
    ) -> Result<IssuedCertificate, NotSigned> {
        let Ok(_place) = self.places.acquire().await else {
            return Err(NotSigned::Later);
        };
        if self.pause().is_some() {
            return Err(NotSigned::Later);
        }
        let signed = signer.issue(profile, csr_pem, csr, core.clock.now()).await;
        match signed {
            Ok(issued) => {
                if self.worked() || recorded(core) {
                    note(core, None).await;
                }
                Ok(issued)
            }
            Err(error) if error.is_final() => Err(NotSigned::Failed(error.to_string())),
            Err(error) => {
                let text = error.to_string();
                if self.fail(&text) || !recorded(core) {
                    tracing::error!(error = %text, "the external CA does not sign; nodes go on with what they have");
                    note(core, Some(text)).await;
                }
                Err(NotSigned::Later)
            }
        }
    }

    /// Waits for a failure, and then until its pause is over.
    pub(crate) async fn due(&self) {
        self.failed.notified().await;
        while let Some(pause) = self.pause() {
            tokio::time::sleep(pause).await;
        }
    }

    /// How long nobody is to ask; `None` while it does well or is due.
    fn pause(&self) -> Option<Duration> {
        let trouble = self.lock();
        let pause = trouble
            .as_ref()?
            .retry_at
            .checked_duration_since(Instant::now());
        pause.filter(|pause| !pause.is_zero())
    }

    /// It did not answer; whether that is news.
    fn fail(&self, error: &str) -> bool {
        let mut trouble = self.lock();
        let failures = trouble.as_ref().map_or(0, |known| known.failures + 1);
        let is_news = trouble.as_ref().is_none_or(|known| known.error != error);
        let pause = FIRST_PAUSE
            .saturating_mul(1 << failures.min(8))
            .min(LONGEST_PAUSE);
        *trouble = Some(Trouble {
            error: error.to_owned(),
            failures,
            retry_at: Instant::now() + pause,
        });
        self.failed.notify_one();
        is_news
    }

    /// It signed; whether that is news.
    fn worked(&self) -> bool {
        self.lock().take().is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it is on record that the CA fails, as a former leader may have left it.
fn recorded(core: &Core) -> bool {
    core.read(|state| {
        let cluster = state.cluster();
        cluster.is_some_and(|cluster| cluster.signer_trouble.is_some())
    })
}

/// Puts on record how the CA does, for every manager to show.
async fn note(core: &Core, error: Option<String>) {
    let knows = core.read(|state| {
        let cluster = state.cluster();
        cluster.is_some_and(|cluster| cluster.feature_level >= ROTATION_LEVEL)
    });
    if !knows {
        return;
    }
    let trouble = error.map(|error| SignerTrouble {
        since: Some(timestamp(core.clock.now())),
        error,
    });
    let op = Op::NoteSigner(NoteSigner { trouble });
    if let Err(error) = core.propose_as("ca", op).await {
        tracing::debug!(%error, "how the external CA does is not on record");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end_with_a_certificate() {
        let asked = Asked::default();
        assert!(asked.pause().is_none());
        assert!(asked.fail("x"));
        assert_eq!(asked.pause(), Some(FIRST_PAUSE));
        assert!(!asked.fail("x"), "the same again is no news");
        assert!(asked.fail("y"));
        assert_eq!(asked.pause(), Some(4 * FIRST_PAUSE));
        for _ in 0..40 {
            asked.fail("y");
        }
        assert_eq!(asked.pause(), Some(LONGEST_PAUSE));
        asked.due().await;
        assert!(asked.pause().is_none(), "it is due");
        assert!(asked.worked());
        assert!(!asked.worked());
    }
}
