//! A request body that can be sent again and copied: what was read of it is kept, up to a bound, as it streams by.
//!
//! Nothing waits for the whole body, so streams both ways work as ever. A body that outgrows the bound goes on, but can
//! not be sent again. A mirror that reads more slowly than the bound allows loses its copy; it never holds up the call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::is_empty;
use crate::body::{Body, BodyError, Counted};
use crate::flow::Flow;
use crate::forward;
use crate::tls::Wire;

/// How much of a body is kept to be sent again.
const KEPT: u64 = 64 * 1024;
/// Frames that wait for a mirror.
const WAITING: usize = 64;

/// Where the body of a call's attempts comes from.
pub(super) enum Source {
    /// None.
    Empty,
    /// It goes out once; what never left comes back.
    Once(Option<Body>),
    Kept(Arc<Mutex<Kept>>),
}

pub(super) struct Kept {
    rest: Option<Incoming>,
    pieces: Vec<Piece>,
    bytes: u64,
    /// More came than is kept, or keeping was not asked for.
    outgrown: bool,
    /// Of the reader that may read on; earlier ones are told that they were overtaken.
    reader: usize,
    taps: Vec<mpsc::Sender<Tapped>>,
    /// Whose bytes they are; each once, however often it is sent.
    flow: Arc<Flow>,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Trailers(_) => 0,
        }
    }

    fn frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

enum Tapped {
    Piece(Piece),
    End,
}

impl Source {
    pub(super) fn new(body: Incoming, retried: bool, mirrored: bool, flow: Arc<Flow>) -> Self {
        if is_empty(&body) {
            return Self::Empty;
        }
        if !retried && !mirrored {
            let mut body = Body::from(body);
            body.count(Counted::from_source(flow));
            return Self::Once(Some(body));
        }
        Self::Kept(Arc::new(Mutex::new(Kept {
            rest: Some(body),
            pieces: Vec::new(),
            bytes: 0,
            outgrown: !retried,
            reader: 0,
            taps: Vec::new(),
            flow,
        })))
    }

    /// Says in the head that a body follows, where only its absence would be assumed.
    pub(super) fn frame(&self, parts: &mut Parts, wire: Wire) {
        if !matches!(self, Self::Empty) {
            forward::frame_body(parts, wire);
        }
    }

    /// Takes back a body that certainly never left.
    pub(super) fn restore(&mut self, returned: Body) {
        if let Self::Once(body) = self {
            *body = Some(returned);
        }
    }

    /// The body for one more attempt. Only to be asked again while [`Source::replayable`].
    pub(super) fn body(&mut self) -> Body {
        match self {
            Self::Empty => Body::empty(),
            Self::Once(body) => body.take().unwrap_or_else(Body::empty),
            Self::Kept(kept) => {
                let reader = {
                    let mut kept = kept.lock();
                    kept.reader += 1;
                    kept.reader
                };
                Body::boxed(Reader { kept: Arc::clone(kept), reader, at: 0, ended: false })
            }
        }
    }

    /// A copy of the body, read as the call's own is read.
    pub(super) fn tap(&mut self) -> Body {
        match self {
            Self::Empty | Self::Once(_) => Body::empty(),
            Self::Kept(kept) => {
                let (sender, receiver) = mpsc::channel(WAITING);
                kept.lock().taps.push(sender);
                Body::boxed(Tap { receiver, ended: false })
            }
        }
    }

    /// Whether the body can be sent once more, from its beginning.
    pub(super) fn replayable(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(body) => body.is_some(),
            Self::Kept(kept) => !kept.lock().outgrown,
        }
    }
}

impl Kept {
    fn take(&mut self, piece: &Piece) {
        self.taps.retain(|tap| tap.try_send(Tapped::Piece(piece.clone())).is_ok());
        let size = piece.len();
        self.flow.received(size);
        if self.outgrown || self.bytes + size > KEPT {
            self.outgrown = true;
            self.pieces = Vec::new();
            return;
        }
        self.bytes += size;
        self.pieces.push(piece.clone());
    }

    fn end(&mut self) {
        self.rest = None;
        for tap in self.taps.drain(..) {
            // Full: the copy lacks its end and breaks off, as it should.
            let _ = tap.try_send(Tapped::End);
        }
    }
}

/// One attempt's body.
struct Reader {
    kept: Arc<Mutex<Kept>>,
    reader: usize,
    at: usize,
    ended: bool,
}

impl HttpBody for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut kept = this.kept.lock();
        if kept.reader != this.reader {
            return Poll::Ready(Some(Err(BodyError::Overtaken)));
        }
        if let Some(piece) = kept.pieces.get(this.at) {
            this.at += 1;
            return Poll::Ready(Some(Ok(piece.clone().frame())));
        }
        loop {
            let Some(rest) = &mut kept.rest else {
                this.ended = true;
                return Poll::Ready(None);
            };
            match Pin::new(rest).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => kept.end(),
                Poll::Ready(Some(Err(error))) => {
                    kept.outgrown = true;
                    kept.taps.clear();
                    return Poll::Ready(Some(Err(BodyError::Http(error))));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let piece = match frame.into_data() {
                        Ok(data) if data.is_empty() => continue,
                        Ok(data) => Piece::Data(data),
                        Err(frame) => match frame.into_trailers() {
                            Ok(trailers) => Piece::Trailers(trailers),
                            Err(_) => continue,
                        },
                    };
                    kept.take(&piece);
                    this.at = kept.pieces.len();
                    return Poll::Ready(Some(Ok(piece.frame())));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.lock();
        let ahead: u64 = kept.pieces.iter().skip(self.at).map(Piece::len).sum();
        let rest = kept.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + ahead);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + ahead);
        }
        hint
    }
}

/// A mirror's body.
struct Tap {
    receiver: mpsc::Receiver<Tapped>,
    ended: bool,
}

impl HttpBody for Tap {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match self.receiver.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Tapped::Piece(piece))) => Poll::Ready(Some(Ok(piece.frame()))),
            Poll::Ready(Some(Tapped::End)) => {
                self.ended = true;
                Poll::Ready(None)
            }
            Poll::Ready(None) => Poll::Ready(Some(Err(BodyError::Overtaken))),
        }
    }
}
