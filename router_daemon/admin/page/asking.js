// What is asked of the daemon beside the stream. An answer that is none becomes an Error whose text is for people.

const WAIT_MS = 8000;

export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, signal: AbortSignal.timeout(WAIT_MS), headers: { Accept: "application/json", ...options.headers } });
  } catch (fault) {
    throw new Error(fault.name === "TimeoutError" ? "the daemon did not answer in 8 s" : "the daemon cannot be reached");
  }
  let told = null;
  try {
    told = await response.json();
  } catch {
    throw new Error(`the daemon answered ${response.status} without JSON`);
  }
  if (!response.ok) throw Object.assign(new Error(told.error ?? `status ${response.status}`), { status: response.status });
  return told;
}

export const query = (parts) => {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(parts)) if (value !== "" && value !== null && value !== undefined) search.set(key, value);
  return search.toString();
};
