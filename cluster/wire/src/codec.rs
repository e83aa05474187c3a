//! Protobuf with small buffers.
//!
//! Each call has a buffer of its own for as long as it is open, and a node keeps two streams open
//! as long as it lives on which next to nothing comes.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// What a buffer has to begin with: a beat and its answer fit. Others make it grow.
const BUFFER_BYTES: usize = 128;
/// A buffer is handed on at this size, as in tonic's own settings.
const YIELD_BYTES: usize = 32 * 1024;

/// Encodes `E` and decodes `D`.
#[derive(Debug)]
pub(crate) struct FrugalCodec<E, D>(PhantomData<(E, D)>);

impl<E, D> Default for FrugalCodec<E, D> {
    fn default() -> Self {
        FrugalCodec(PhantomData)
    }
}

impl<E, D> Codec for FrugalCodec<E, D>
where
    E: Message + Send + 'static,
    D: Message + Default + Send + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = <ProstCodec<E, D> as Codec>::Encoder;
    type Decoder = <ProstCodec<E, D> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<E, D>::raw_encoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<E, D>::raw_decoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}
