// Browsers start no worker from a file, so that the search of an offline site runs in a hidden frame instead.
// The plugin `offline` would load such a script from the network; it looks for this name in `extra.polyfills`.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.srcdoc = "<body></body>"
      this.inside = new Promise((resolve, reject) => {
        frame.onload = () => {
          const inside = frame.contentWindow
          const load = source => new Promise((done, failed) => {
            const script = inside.document.createElement("script")
            Object.assign(script, {src: source, onload: done, onerror: failed})
            inside.document.body.append(script)
          })
          inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", {data}))
          inside.importScripts = (...sources) => sources.reduce((last, next) => last.then(() => load(next)), Promise.resolve())
          load(new URL(url, location)).then(() => resolve(inside), reject)
        }
      })
      document.body.append(frame)
    }
    postMessage(data) {
      this.inside.then(inside => inside.dispatchEvent(new inside.MessageEvent("message", {data})))
    }
    terminate() {}
  }
}
