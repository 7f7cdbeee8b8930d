use super::*;

/// 2026-11-26 12:00:00 UTC.
const NOON: i64 = 1_795_694_400;

/// What a time server on loopback does with a question.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Server {
    /// Says this time, in seconds since 1970.
    Says(i64),
    /// Says it from the second question on.
    SaysLate(i64),
    /// Says it, right after an answer with another question's mark that says 1970.
    SaysAfterAForgery(i64),
    /// Kiss-o'-death.
    Kisses,
    /// Does not answer.
    Silent,
}

/// A time server, with its own clock standing still; it stops with the test's runtime.
pub(crate) async fn serve(server: Server) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut question = [0; DATAGRAM];
        for number in 1.. {
            let (length, client) = socket.recv_from(&mut question).await.unwrap();
            assert_eq!((length, question[0]), (packet::SIZE, 0x23));
            let mark: [u8; 8] = question[40..48].try_into().unwrap();
            let answers = match server {
                Server::Says(time) => vec![answer(2, mark, time)],
                Server::SaysLate(time) if number > 1 => vec![answer(2, mark, time)],
                Server::SaysAfterAForgery(time) => vec![answer(2, mark.map(|byte| !byte), 0), answer(2, mark, time)],
                Server::Kisses => vec![answer(0, mark, 0)],
                Server::SaysLate(_) | Server::Silent => Vec::new(),
            };
            for answer in answers {
                socket.send_to(&answer, client).await.unwrap();
            }
        }
    });
    address
}

/// An answer of a server of `stratum`; with 0 it is a kiss-o'-death.
fn answer(stratum: u8, mark: [u8; 8], time: i64) -> Vec<u8> {
    let mut packet = vec![0; packet::SIZE];
    packet[0] = 0x24;
    packet[1] = stratum;
    packet[12..16].copy_from_slice(b"DENY");
    packet[24..32].copy_from_slice(&mark);
    let seconds = u32::try_from((time + 2_208_988_800).rem_euclid(1 << 32)).unwrap();
    packet[40..44].copy_from_slice(&seconds.to_be_bytes());
    // A quarter of a second: what a test takes until it looks does not round up to the next one.
    packet[44] = 0x40;
    packet
}

/// Patience of a test: what must come is waited for long, what must not come is not.
pub(crate) const PATIENCE: Patience =
    Patience { first: Duration::from_secs(20), more: Duration::from_secs(1), again: Duration::from_millis(100) };

async fn said(server: Server, patience: Patience) -> Result<i64, String> {
    let address = serve(server).await;
    let [heard] = &ask(&[address], NOON, patience).await[..] else { panic!("one answer for one server") };
    assert_eq!(heard.server, address);
    heard.said.clone()
}

/// Whether it is `time`, or a little more on a busy machine.
fn about(said: Result<i64, String>, time: i64) -> bool {
    said.is_ok_and(|said| (time..time + 5).contains(&said))
}

#[tokio::test]
async fn a_server_says_the_time() {
    assert!(about(said(Server::Says(NOON), PATIENCE).await, NOON));
    assert!(about(said(Server::SaysLate(NOON), PATIENCE).await, NOON), "the second question is answered");
    assert!(about(said(Server::SaysAfterAForgery(NOON), PATIENCE).await, NOON), "a forged answer is passed over");
    // A lie is heard here like anything else.
    assert!(about(said(Server::Says(86_400), PATIENCE).await, 86_400));
}

#[tokio::test]
async fn a_server_that_says_no_time_is_told_with_the_reason() {
    let kiss = said(Server::Kisses, PATIENCE).await;
    assert_eq!(kiss, Err("it does not want to be asked (DENY)".to_owned()));
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let heard = ask(&[nobody], NOON, PATIENCE).await;
    let refused = Err("waiting for an answer: Connection refused (os error 111)".to_owned());
    assert_eq!(heard, [Heard { server: nobody, said: refused }]);
}

#[tokio::test]
async fn silence_is_waited_for_only_so_long() {
    let short = Patience { first: Duration::from_millis(300), ..PATIENCE };
    let began = Instant::now();
    assert_eq!(said(Server::Silent, short).await, Err("no answer".to_owned()));
    assert!(began.elapsed() >= Duration::from_millis(300));

    // One that answers shortens the wait for the others.
    let servers = [serve(Server::Silent).await, serve(Server::Says(NOON)).await];
    let began = Instant::now();
    let heard = ask(&servers, NOON, PATIENCE).await;
    assert!(began.elapsed() < PATIENCE.first);
    assert_eq!(heard[0], Heard { server: servers[0], said: Err("no answer".to_owned()) });
    assert!(about(heard[1].said.clone(), NOON));
    assert_eq!(ask(&[], NOON, PATIENCE).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_time_that_was_heard_goes_on() {
    let answer = Answer { time: NOON * 1000 + 400, at: Instant::now() };
    assert_eq!(answer.now(), NOON);
    tokio::time::advance(Duration::from_millis(99)).await;
    assert_eq!(answer.now(), NOON);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(answer.now(), NOON + 1);
    tokio::time::advance(Duration::from_secs(90)).await;
    assert_eq!(answer.now(), NOON + 91);
}
