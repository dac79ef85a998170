var e=localStorage.getItem("theme")||"system",t=matchMedia("(prefers-color-scheme: dark)").matches;document.documentElement.classList.toggle("dark",e==="dark"||e==="system"&&t);
