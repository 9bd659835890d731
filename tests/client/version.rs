//! One call is answered by one model version, whatever the server does meanwhile.

use reward_sidecar::client::{Client, Version};
use reward_sidecar::proto::outcome_to_wire;
use reward_sidecar::reward::{Code, Rewards};

use crate::fake::{Fake, Manners, rewards_of};
use crate::{PATIENT, address, rollout, socket};

#[tokio::test]
async fn another_model_does_not_answer_the_rest_of_a_stream() {
    for (version, held) in [(Version::First, true), (Version::Any, false), (Version::One("fake-1".into()), true)] {
        let named = matches!(version, Version::One(_));
        let (_folder, path) = socket();
        // One at a time, so that the second is sent after the first was answered.
        let mut fake = Fake::at(&path, Manners { in_flight_limit: 1, ..Manners::default() });
        let builder = Client::builder(address(&path)).back_off(PATIENT).in_flight_limit(1).version(version);
        let client = builder.connect().await.unwrap();
        let mut source = ["first", "second"].into_iter();
        let mut series = client.stream(std::iter::from_fn(move || source.next().map(|text| rollout(text, text))));
        let mut conversation = fake.conversation().await;
        let first = tokio::select! {
            _ = series.next() => panic!("nobody answers"),
            asked = conversation.rollout() => asked.unwrap(),
        };
        assert_eq!(first.model_version, if named { "fake-1" } else { "" });
        conversation.answer(&first).await;
        assert!(series.next().await.unwrap().1.unwrap().is_ok());
        fake.kill();
        let mut fake = Fake::at(&path, Manners { model_version: "fake-2", ..Manners::default() });
        let answer = async {
            // The conversation lasts until the answer has been read.
            let mut conversation = fake.conversation().await;
            let asked = conversation.rollout().await.unwrap();
            let rewards = Rewards { model_version: "fake-2".into(), ..rewards_of(&asked) };
            conversation.reply(outcome_to_wire(asked.id.clone(), Ok(rewards))).await;
            conversation
        };
        let ((_, answer), _conversation) = tokio::join!(async { series.next().await.unwrap() }, answer);
        assert_eq!(answer.unwrap().err().map(|rejection| rejection.code), held.then_some(Code::OtherVersion));
    }
}
