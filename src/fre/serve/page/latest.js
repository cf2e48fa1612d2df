// Answers that may come in another order than the questions.

/** Call the result with each question; what that returns says whether no other was asked since. */
export function lastAsked() {
  let asked = 0;
  return () => {
    asked += 1;
    const mine = asked;
    return () => mine === asked;
  };
}
