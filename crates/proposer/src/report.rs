//! [`Reporter`]: one log line for each change, none for a repetition.

use leader::{Leader, Peer, PeerState, Refusal, State};
use pg_source::Assessment;

/// What was said last.
#[derive(Debug)]
pub(crate) struct Reporter {
    state: Option<State>,
    refusal: Option<String>,
    trouble: Option<String>,
    peers: Vec<(PeerState, Option<String>)>,
}

impl Reporter {
    pub(crate) fn new(peers: usize) -> Reporter {
        Reporter { state: None, refusal: None, trouble: None, peers: vec![(PeerState::Offline, None); peers] }
    }

    /// There are so many safekeepers now.
    pub(crate) fn meet(&mut self, peers: usize) {
        self.peers.resize(peers, (PeerState::Offline, None));
    }

    /// Looks at the leader after an event. Cheap while nothing has changed, for this is on the way of every commit.
    pub(crate) fn leader(&mut self, leader: &Leader) {
        let state = leader.state();
        if self.state != Some(state) {
            self.state = Some(state);
            if state == State::Leading {
                self.elected(leader);
            } else {
                tracing::debug!("{state}");
            }
        }
        if let Some(refusal) = leader.refusal() {
            self.refused(refusal);
        }
        if let Some(trouble) = leader.trouble()
            && self.trouble.as_deref() != Some(trouble)
        {
            tracing::warn!("{trouble}");
            self.trouble = Some(trouble.to_owned());
        }
        for (index, known) in self.peers.iter_mut().enumerate() {
            let Some(state) = leader.peer_state(Peer(index)) else { continue };
            let error = leader.peer_error(Peer(index));
            if known.0 == state && known.1.as_deref() == error {
                continue;
            }
            report_peer(leader, index, known, state, error);
            known.0 = state;
            known.1 = error.map(str::to_owned);
        }
    }

    fn elected(&mut self, leader: &Leader) {
        (self.refusal, self.trouble) = (None, None);
        let status = leader.status();
        metrics::counter!("seawall_elections_total").increment(1);
        tracing::info!(
            term = status.term.map(|term| term.0), start = ?status.term_start,
            "elected: the primary's WAL is relayed to the quorum"
        );
    }

    fn refused(&mut self, refusal: &Refusal) {
        let text = refusal.to_string();
        if self.refusal.as_ref() != Some(&text) {
            metrics::counter!("seawall_refusals_total", "reason" => refusal.code()).increment(1);
            tracing::error!(reason = refusal.code(), "refused: {text}");
            self.refusal = Some(text);
        }
    }

    /// Says when protection begins, ends, or ends for another reason.
    pub(crate) fn assessment(&mut self, before: &Assessment, now: &Assessment) {
        if before == now {
            return;
        }
        for reason in now.reasons.iter().filter(|reason| !before.reasons.contains(reason)) {
            tracing::warn!(code = reason.code, "UNPROTECTED: {}", reason.text);
        }
        for warning in now.warnings.iter().filter(|warning| !before.warnings.iter().any(|w| w.code == warning.code)) {
            tracing::warn!(code = warning.code, "{}", warning.text);
        }
        if now.is_protected() && !before.is_protected() {
            tracing::info!("protected: the primary's commits wait for the quorum");
        }
    }
}

fn report_peer(
    leader: &Leader,
    index: usize,
    before: &(PeerState, Option<String>),
    state: PeerState,
    error: Option<&str>,
) {
    let Some(status) = leader.peer_status(Peer(index)) else { return };
    let address = status.address;
    match (state, error) {
        (PeerState::Streaming | PeerState::CatchingUp, _) if before.0 != state => {
            tracing::info!(safekeeper = address, node = status.node.map(|node| node.0), flush = ?status.flush, "{state}");
        }
        (_, Some(error)) if before.1.as_deref() != Some(error) => tracing::warn!(safekeeper = address, "{error}"),
        _ => tracing::debug!(safekeeper = address, "{state}"),
    }
}
