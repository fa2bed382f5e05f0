//! The registry alone: `registryd DATA-DIR ADDRESS`. For work on it, and for its tests; everything else runs `tug`.

use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, address] = arguments.as_slice() else {
        return Err("usage: registryd DATA-DIR ADDRESS".into());
    };
    let listener = tokio::net::TcpListener::bind(address).await?;
    let options = registry::Options::new(data.into(), listener);
    Ok(registry::run(options, CancellationToken::new()).await?)
}
