//! Connections, limits, and the end.

use crate::client::*;
use crate::{http, sidecar};

#[tokio::test]
async fn says_how_it_is() {
    let sidecar = sidecar(http()).await;
    assert_eq!(get(&sidecar, "/health").await.text(), "alive\n");
    assert_eq!(get(&sidecar, "/ready").await.text(), "ready\n");
    let models = get(&sidecar, "/v1/models").await.ok();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&"list".into(), &"echo".into()));
    assert_eq!(get(&sidecar, "/nothing").await.refused(404), "NO_ROUTE");
    assert_eq!(get(&sidecar, "/get_reward").await.refused(405), "NO_METHOD");
}
